package dataset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/parquet-go/parquet-go"
	"go.yaml.in/yaml/v3"

	"fakeart/internal/config"
)

// gatherHub downloads the Parquet shards of cfg.Repo at cfg.Revision into a cache folder and reads
// them. cfg.Path is the cache folder; if empty it is one of the user's, so that the download
// outlives the data folder. HF_TOKEN is sent to the hub if set, and HF_ENDPOINT is asked instead of
// the public hub if cfg.Endpoint does not name another.
func gatherHub(ctx context.Context, cfg config.Dataset, c *collection, out io.Writer) (Source, error) {
	endpoint := cfg.Endpoint
	if endpoint == "" || strings.TrimRight(endpoint, "/") == defaultEndpoint {
		endpoint = defaultEndpoint
		if env := os.Getenv("HF_ENDPOINT"); env != "" {
			endpoint = env
		}
	}
	h, err := newHub(endpoint, os.Getenv("HF_TOKEN"))
	if err != nil {
		return Source{}, err
	}
	return h.gather(ctx, cfg, c, out)
}

func (h *hub) gather(ctx context.Context, cfg config.Dataset, c *collection, out io.Writer) (Source, error) {
	if out == nil {
		out = io.Discard
	}
	cache := cfg.Path
	if cache == "" {
		dir, err := os.UserCacheDir()
		if err != nil {
			return Source{}, fmt.Errorf("no folder to keep downloads in (%w); name one as dataset.path", err)
		}
		cache = filepath.Join(dir, "fakeart", "huggingface")
	}
	repo, err := h.open(ctx, cfg.Repo, cfg.Revision)
	if err != nil {
		return Source{}, fmt.Errorf("hub: %w", err)
	}
	fmt.Fprintf(out, "%s at commit %s\n", repo.name, repo.commit)
	shards, err := findShards(repo.files)
	if err != nil {
		return Source{}, fmt.Errorf("hub: %s at %s %w", cfg.Repo, repo.commit, err)
	}
	card, err := repo.readCard(ctx)
	if err != nil {
		return Source{}, fmt.Errorf("hub: %w", err)
	}
	var files []remoteFile
	for _, s := range shards {
		files = append(files, s.file)
	}
	paths, err := repo.fetch(ctx, cache, files, out)
	if err != nil {
		return Source{}, fmt.Errorf("hub: %w", err)
	}

	// Every shard is opened before any is read: that the metadata is whole costs nothing to know.
	var tables []*table
	defer func() {
		for _, t := range tables {
			t.close()
		}
	}()
	rows := int64(0)
	var said []nameClaim
	for i, s := range shards {
		t, err := openTable(paths[i], s.file.name)
		if err != nil {
			return Source{}, fmt.Errorf("hub: %w", err)
		}
		tables = append(tables, t)
		rows += t.file.NumRows()
		if t.names != nil {
			said = append(said, nameClaim{s.file.name, t.column, t.names})
		}
	}
	for _, claim := range card {
		if claim.column == tables[0].column { // others count other things
			said = append(said, claim)
		}
	}
	names, labels, err := agree(said)
	if err != nil {
		return Source{}, fmt.Errorf("hub: %s: %w", cfg.Repo, err)
	}
	bar := newProgress(out, "pictures read", rows, unitPictures)
	defer bar.stop()
	err = decodeAll(ctx, c, func(submit func(job) error) error {
		for i, t := range tables {
			if err := t.read(c, shards[i].split, labels, submit, bar); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return Source{}, fmt.Errorf("hub: %w", err)
	}
	if err := c.complete(cfg.Repo); err != nil {
		return Source{}, fmt.Errorf("hub: %w", err)
	}
	return Source{Kind: "huggingface", Repo: cfg.Repo, Revision: repo.commit, Labels: names}, nil
}

// shard is a Parquet file that holds a part of a split.
type shard struct {
	file  remoteFile
	split int
}

// findShards picks the Parquet files of train and test, in order of their names. The hub has no
// field for it: a split is the word "train" or "test" in the file's name or else in that of a
// folder above (data/train-00000-of-00001.parquet, default/train/0000.parquet).
func findShards(files []remoteFile) ([]shard, error) {
	var shards []shard
	var parquets int
	var groups []string // what is above the part that names the split: the "configs" of a data set
	for _, f := range files {
		if !strings.EqualFold(path.Ext(f.name), ".parquet") {
			continue
		}
		parquets++
		parts := strings.Split(f.name, "/")
	search:
		for i := len(parts) - 1; i >= 0; i-- {
			words := strings.FieldsFunc(strings.ToLower(parts[i]), func(r rune) bool { return r < 'a' || r > 'z' })
			for _, word := range words {
				if split := slices.Index(splitNames[:], word); split >= 0 {
					shards = append(shards, shard{f, split})
					if group := path.Join(parts[:i]...); !slices.Contains(groups, group) {
						groups = append(groups, group)
					}
				} else if !slices.Contains([]string{"validation", "valid", "val", "dev"}, word) {
					continue
				}
				break search
			}
		}
	}
	slices.Sort(groups)
	switch {
	case parquets == 0:
		return nil, errors.New("has no Parquet files; the hub converts many data sets: try dataset.revision=refs/convert/parquet")
	case len(shards) == 0:
		return nil, errors.New("has no Parquet files named train or test")
	case len(groups) > 1:
		return nil, fmt.Errorf("holds several data sets (in %q); this program reads repositories that hold one", groups)
	}
	slices.SortFunc(shards, func(a, b shard) int { return strings.Compare(a.file.name, b.file.name) })
	return shards, nil
}

// nameClaim is one place's word on the class names, in label order.
type nameClaim struct {
	where  string
	column string
	names  []string
}

// agree returns the class names that all claims agree on, and for each of the hub's labels ours.
// Without a claim there is no guess: data sets exist in either order.
func agree(claims []nameClaim) (names []string, labels []uint8, err error) {
	if len(claims) == 0 {
		return nil, nil, errors.New("neither the Parquet files' metadata nor README.md names the classes, " +
			"so nobody knows which label is FAKE; choose another dataset.revision, or ask its author to add them")
	}
	for _, claim := range claims[1:] {
		if !slices.EqualFunc(claim.names, claims[0].names, strings.EqualFold) {
			return nil, nil, fmt.Errorf("%s names the classes %q, but %s names them %q; one of them has the labels backwards",
				claims[0].where, claims[0].names, claim.where, claim.names)
		}
	}
	names = claims[0].names
	for _, name := range names {
		class := slices.IndexFunc(classNames[:], func(n string) bool { return strings.EqualFold(n, strings.TrimSpace(name)) })
		if class >= 0 {
			labels = append(labels, uint8(class))
		}
	}
	if len(names) != 2 || len(labels) != 2 || labels[0] == labels[1] {
		return nil, nil, fmt.Errorf("%s names the classes %q, want REAL and FAKE in either order", claims[0].where, names)
	}
	return names, labels, nil
}

// feature is what the hub's metadata says of a column.
type feature struct {
	Type  string   `json:"_type"`
	Names []string `json:"names"`
}

// features reads the columns of a data set's info. One that is written otherwise is of no interest.
func features(raw map[string]json.RawMessage) map[string]feature {
	all := map[string]feature{}
	for name, data := range raw {
		var f feature
		if json.Unmarshal(data, &f) == nil {
			all[name] = f
		}
	}
	return all
}

// column returns the name of the one column of a type, or otherwise if there is none or several.
func column(all map[string]feature, kind, otherwise string) string {
	found := ""
	for name, f := range all {
		if f.Type != kind {
			continue
		}
		if name == otherwise || found != "" {
			return otherwise
		}
		found = name
	}
	if found == "" {
		return otherwise
	}
	return found
}

// readCard reads the class names from the repository's README.md, whose YAML head describes the
// data set, if it does.
func (r *repository) readCard(ctx context.Context) ([]nameClaim, error) {
	const card = "README.md"
	if !slices.ContainsFunc(r.files, func(f remoteFile) bool { return f.name == card }) {
		return nil, nil
	}
	data, err := r.hub.getBytes(ctx, r.address(card))
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return cardNames(card, data), nil
}

// cardNames returns the class names of each labelled column in a card's head:
//
//	dataset_info:
//	  features:
//	  - name: label
//	    dtype:
//	      class_label:
//	        names:
//	          '0': FAKE
//	          '1': REAL
func cardNames(where string, card []byte) []nameClaim {
	text := strings.ReplaceAll(strings.TrimPrefix(string(card), "\ufeff"), "\r\n", "\n")
	text, ok := strings.CutPrefix(text, "---\n")
	if !ok {
		return nil
	}
	text, _, ok = strings.Cut(text, "\n---")
	if !ok {
		return nil
	}
	type info struct {
		Features []struct {
			Name  string    `yaml:"name"`
			Dtype yaml.Node `yaml:"dtype"`
		} `yaml:"features"`
	}
	var head struct {
		Info yaml.Node `yaml:"dataset_info"`
	}
	if yaml.Unmarshal([]byte(text), &head) != nil {
		return nil // the card's prose head is no part of the data
	}
	infos := make([]info, 1)
	if head.Info.Kind == yaml.SequenceNode { // one for each config
		infos = nil
		if head.Info.Decode(&infos) != nil {
			return nil
		}
	} else if head.Info.Decode(&infos[0]) != nil {
		return nil
	}
	var claims []nameClaim
	for _, i := range infos {
		for _, f := range i.Features {
			var dtype struct {
				ClassLabel struct {
					Names yaml.Node `yaml:"names"`
				} `yaml:"class_label"`
			}
			if f.Dtype.Kind != yaml.MappingNode || f.Dtype.Decode(&dtype) != nil {
				continue
			}
			if names := labelNames(dtype.ClassLabel.Names); names != nil {
				claims = append(claims, nameClaim{where, f.Name, names})
			}
		}
	}
	return claims
}

// labelNames reads class names that are a list, or a map from label to name.
func labelNames(node yaml.Node) []string {
	var list []string
	if node.Kind == yaml.SequenceNode && node.Decode(&list) == nil {
		return list
	}
	var byLabel map[string]string
	if node.Kind != yaml.MappingNode || node.Decode(&byLabel) != nil {
		return nil
	}
	list = make([]string, len(byLabel))
	for label, name := range byLabel {
		i, err := strconv.Atoi(label)
		if err != nil || i < 0 || i >= len(list) {
			return nil
		}
		list[i] = name
	}
	return list
}

// table is an open shard.
type table struct {
	name         string
	os           *os.File
	file         *parquet.File
	column       string   // the name of the column of labels
	names        []string // class names from the file's own metadata, nil if it has none
	image, label parquet.LeafColumn
}

func (t *table) close() { _ = t.os.Close() }

// openTable opens a shard and finds its two columns.
func openTable(local, name string) (t *table, err error) {
	f, err := os.Open(local)
	if err != nil {
		return nil, err
	}
	defer func() {
		// The Parquet library panics on some files that are not what they say.
		if p := recover(); p != nil {
			err = fmt.Errorf("%s is not a Parquet file that can be read: %v", name, p)
		}
		if err != nil {
			_ = f.Close()
		}
	}()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	file, err := parquet.OpenFile(f, info.Size(), parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true))
	if err != nil {
		return nil, fmt.Errorf("%s is not a Parquet file that can be read: %w", name, err)
	}
	t = &table{name: name, os: f, file: file}

	var meta struct {
		Info struct {
			Features map[string]json.RawMessage `json:"features"`
		} `json:"info"`
	}
	if text, ok := file.Lookup("huggingface"); ok {
		if err := json.Unmarshal([]byte(text), &meta); err != nil {
			return nil, fmt.Errorf("%s: the hub's metadata in it is broken: %w", name, err)
		}
	}
	all := features(meta.Info.Features)
	label, image := column(all, "ClassLabel", "label"), column(all, "Image", "image")
	t.column, t.names = label, all[label].Names

	var has []string
	for _, c := range file.Schema().Columns() {
		has = append(has, strings.Join(c, "."))
	}
	find := func(what string, kinds []parquet.Kind, paths ...[]string) (parquet.LeafColumn, error) {
		for _, p := range paths {
			leaf, ok := file.Schema().Lookup(p...)
			if ok && leaf.MaxRepetitionLevel == 0 && slices.Contains(kinds, leaf.Node.Type().Kind()) {
				return leaf, nil
			}
		}
		return parquet.LeafColumn{}, fmt.Errorf("%s has no column %s of %s; it has %s",
			name, strings.Join(paths[0], "."), what, strings.Join(has, ", "))
	}
	if t.image, err = find("bytes", []parquet.Kind{parquet.ByteArray}, []string{image, "bytes"}, []string{image}); err != nil {
		return nil, err
	}
	t.label, err = find("whole numbers", []parquet.Kind{parquet.Int64, parquet.Int32}, []string{label})
	return t, err
}

// read hands out the pictures of the shard, row by row.
func (t *table) read(c *collection, split int, labels []uint8, submit func(job) error, bar *progress) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s is broken: %v", t.name, p)
		}
	}()
	row := 0
	buf := make([]parquet.Row, 64)
	for _, group := range t.file.RowGroups() {
		rows := group.Rows()
		for {
			n, err := rows.ReadRows(buf)
			for _, values := range buf[:n] {
				if err := t.readRow(c, split, labels, submit, row, values); err != nil {
					_ = rows.Close()
					return err
				}
				row++
			}
			bar.add(int64(n))
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				_ = rows.Close()
				return fmt.Errorf("%s is broken after row %d: %w", t.name, row, err)
			}
		}
		if err := rows.Close(); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	if want := t.file.NumRows(); int64(row) != want {
		return fmt.Errorf("%s is broken: it has %d rows, its metadata says %d", t.name, row, want)
	}
	return nil
}

func (t *table) readRow(c *collection, split int, labels []uint8, submit func(job) error, row int, values parquet.Row) error {
	where := fmt.Sprintf("%s row %d", t.name, row)
	label, image := int64(-1), []byte(nil)
	for _, v := range values {
		switch {
		case v.IsNull():
		case v.Column() == t.label.ColumnIndex && v.Kind() == parquet.Int32:
			label = int64(v.Int32())
		case v.Column() == t.label.ColumnIndex:
			label = v.Int64()
		case v.Column() == t.image.ColumnIndex:
			image = v.ByteArray()
		}
	}
	switch {
	case label < 0 || label >= int64(len(labels)):
		return c.unreadable(where, fmt.Errorf("its label is %d, want 0 or 1", label))
	case len(image) == 0:
		return c.unreadable(where, errors.New("it has no picture"))
	case len(image) > maxFile:
		return c.unreadable(where, errFileTooLarge)
	}
	data := pool.get()
	data.Write(image) // the library reuses its memory for the next rows
	return submit(job{
		split: split, class: labels[label], path: where, data: data,
		key: fmt.Sprintf("%s#%09d", t.name, row),
	})
}
