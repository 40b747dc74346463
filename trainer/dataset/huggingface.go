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

// gatherHub downloads the Parquet files of cfg.Repo at cfg.Revision to a cache directory and reads
// them. cfg.Path is the cache directory; if it is empty, a directory in the user's cache is used,
// so that the download outlives the dataset. HF_TOKEN is sent to the Hub if it is set. HF_ENDPOINT
// replaces the public Hub unless cfg.Endpoint is set to another address.
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
			return Source{}, errors.New("no cache directory for downloads: neither HOME nor XDG_CACHE_HOME is set\nhint: set the environment variable XDG_CACHE_HOME to a directory")
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

	// Open all shards before reading any, so that invalid metadata is found early.
	var tables []*table
	defer func() {
		for _, t := range tables {
			t.close()
		}
	}()
	rows := int64(0)
	var claims []classNameClaim
	for i, s := range shards {
		t, err := openTable(paths[i], s.file.name)
		if err != nil {
			return Source{}, fmt.Errorf("hub: %w", err)
		}
		tables = append(tables, t)
		rows += t.file.NumRows()
		if t.names != nil {
			claims = append(claims, classNameClaim{s.file.name, t.column, t.names})
		}
	}
	for _, claim := range card {
		if claim.column == tables[0].column { // ignore other label columns
			claims = append(claims, claim)
		}
	}
	names, err := resolveLabels(claims)
	if err != nil {
		return Source{}, fmt.Errorf("hub: %s: %w", cfg.Repo, err)
	}
	c.classes = names
	labels := make([]uint16, len(names))
	for i := range names {
		labels[i] = uint16(i)
		if cifake := indexFold(classNames[:], names[i]); isCIFAKE(names) {
			c.classes, labels[i] = Classes(), uint16(cifake)
		}
	}
	bar := newProgress(out, "images read", rows, unitImages)
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
	if err := c.complete(cfg.Repo, false); err != nil {
		return Source{}, fmt.Errorf("hub: %w", err)
	}
	source := Source{Kind: "huggingface", Repo: cfg.Repo, Revision: repo.commit, Labels: names}
	if cfg.Revision != repo.commit {
		source.Requested = cfg.Revision
	}
	return source, nil
}

// shard is a Parquet file with a part of a split.
type shard struct {
	file  remoteFile
	split int
}

// findShards returns the Parquet files of all splits, sorted by name. The Hub has no metadata
// for this: the split is a word of splitFolders such as "train" or "test" in the file name or else in the name of a
// parent directory (data/train-00000-of-00001.parquet, default/train/0000.parquet).
func findShards(files []remoteFile) ([]shard, error) {
	var shards []shard
	var parquets int
	var groups []string // paths above the element that names the split: one per "config" of the repository
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
				if split := slices.Index(splitNames[:], splitFolders[word]); split >= 0 {
					shards = append(shards, shard{f, split})
					if group := path.Join(parts[:i]...); !slices.Contains(groups, group) {
						groups = append(groups, group)
					}
					break search
				}
			}
		}
	}
	slices.Sort(groups)
	switch {
	case parquets == 0:
		return nil, errors.New("has no Parquet files\nhint: try dataset.revision=refs/convert/parquet; the Hub converts many datasets")
	case len(shards) == 0:
		return nil, errors.New("has no Parquet files for train, validation or test")
	case len(groups) > 1:
		return nil, fmt.Errorf("contains several datasets (in %q), but only one is supported", groups)
	}
	slices.SortFunc(shards, func(a, b shard) int { return strings.Compare(a.file.name, b.file.name) })
	return shards, nil
}

// classNameClaim is the class names of a label column according to one source, in label order.
type classNameClaim struct {
	where  string
	column string
	names  []string
}

// resolveLabels returns the class names that all claims agree on, in the order of the labels. It returns an error if
// there is no claim, because the classes of the labels are then unknown.
func resolveLabels(claims []classNameClaim) ([]string, error) {
	if len(claims) == 0 {
		return nil, errors.New("neither the metadata of the Parquet files nor README.md names the classes, so it is unknown which label is which class\n" +
			"hint: set dataset.revision to another revision, or ask the author to add the class names")
	}
	for _, claim := range claims[1:] {
		if !slices.EqualFunc(claim.names, claims[0].names, strings.EqualFold) {
			return nil, fmt.Errorf("conflicting class names: %s in %s, but %s in %s",
				quoted(claims[0].names), claims[0].where, quoted(claim.names), claim.where)
		}
	}
	names := slices.Clone(claims[0].names)
	for i, name := range names {
		names[i] = strings.TrimSpace(name)
	}
	if err := checkClasses(names); err != nil {
		return nil, fmt.Errorf("class names in %s: %w", claims[0].where, err)
	}
	return names, nil
}

// quoted formats class names for an error.
func quoted(names []string) string {
	if len(names) > 10 {
		return fmt.Sprintf("%q and %d more", names[:10], len(names)-10)
	}
	return fmt.Sprintf("%q", names)
}

// isCIFAKE reports whether names are those of CIFAKE's classes, in any order and case.
func isCIFAKE(names []string) bool {
	if len(names) != len(classNames) {
		return false
	}
	for _, name := range classNames {
		if indexFold(names, name) < 0 {
			return false
		}
	}
	return true
}

// feature is the metadata of a column.
type feature struct {
	Type  string   `json:"_type"`
	Names []string `json:"names"`
}

// features parses the column metadata of a dataset. Columns with other metadata are skipped.
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

// column returns the name of the only column of the given type, or fallback if no column or several
// columns have it.
func column(all map[string]feature, kind, fallback string) string {
	found := ""
	for name, f := range all {
		if f.Type != kind {
			continue
		}
		if name == fallback || found != "" {
			return fallback
		}
		found = name
	}
	if found == "" {
		return fallback
	}
	return found
}

// readCard reads the class names from the YAML header of the repository's README.md (the dataset
// card). It returns nil if the card has none or the repository has no card.
func (r *repository) readCard(ctx context.Context) ([]classNameClaim, error) {
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

// cardNames returns the class names of each label column in the header of a dataset card:
//
//	dataset_info:
//	  features:
//	  - name: label
//	    dtype:
//	      class_label:
//	        names:
//	          '0': FAKE
//	          '1': REAL
func cardNames(where string, card []byte) []classNameClaim {
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
		return nil // ignore an invalid header
	}
	infos := make([]info, 1)
	if head.Info.Kind == yaml.SequenceNode { // one per config
		infos = nil
		if head.Info.Decode(&infos) != nil {
			return nil
		}
	} else if head.Info.Decode(&infos[0]) != nil {
		return nil
	}
	var claims []classNameClaim
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
				claims = append(claims, classNameClaim{where, f.Name, names})
			}
		}
	}
	return claims
}

// labelNames reads class names that are a list, or a map from label to name. It returns nil if they
// are neither.
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
	column       string   // name of the label column
	names        []string // class names from the metadata of the file, or nil
	image, label parquet.LeafColumn
}

func (t *table) close() { _ = t.os.Close() }

// openTable opens a shard and finds its image and label columns.
func openTable(local, name string) (t *table, err error) {
	f, err := os.Open(local)
	if err != nil {
		return nil, err
	}
	defer func() {
		// The Parquet library panics on some invalid files.
		if p := recover(); p != nil {
			err = fmt.Errorf("%s is not a readable Parquet file: %v", name, p)
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
		return nil, fmt.Errorf("%s is not a readable Parquet file: %w", name, err)
	}
	t = &table{name: name, os: f, file: file}

	var meta struct {
		Info struct {
			Features map[string]json.RawMessage `json:"features"`
		} `json:"info"`
	}
	if text, ok := file.Lookup("huggingface"); ok {
		if err := json.Unmarshal([]byte(text), &meta); err != nil {
			return nil, fmt.Errorf("%s: invalid Hugging Face metadata: not JSON", name)
		}
	}
	all := features(meta.Info.Features)
	label, image := column(all, "ClassLabel", "label"), column(all, "Image", "image")
	t.column, t.names = label, all[label].Names

	var has []string
	for _, c := range file.Schema().Columns() {
		has = append(has, strings.Join(c, "."))
	}
	find := func(kind string, kinds []parquet.Kind, paths ...[]string) (parquet.LeafColumn, error) {
		for _, p := range paths {
			leaf, ok := file.Schema().Lookup(p...)
			if ok && leaf.MaxRepetitionLevel == 0 && slices.Contains(kinds, leaf.Node.Type().Kind()) {
				return leaf, nil
			}
		}
		return parquet.LeafColumn{}, fmt.Errorf("%s has no column %s of type %s; its columns are %s",
			name, strings.Join(paths[0], "."), kind, strings.Join(has, ", "))
	}
	if t.image, err = find("bytes", []parquet.Kind{parquet.ByteArray}, []string{image, "bytes"}, []string{image}); err != nil {
		return nil, err
	}
	t.label, err = find("integer", []parquet.Kind{parquet.Int64, parquet.Int32}, []string{label})
	return t, err
}

// read submits the images of the shard, row by row.
func (t *table) read(c *collection, split int, labels []uint16, submit func(job) error, bar *progress) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s is damaged: %v", t.name, p)
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
				return fmt.Errorf("%s is damaged after row %d: %w", t.name, row, err)
			}
		}
		if err := rows.Close(); err != nil {
			return fmt.Errorf("%s: %w", t.name, err)
		}
	}
	if want := t.file.NumRows(); int64(row) != want {
		return fmt.Errorf("%s is damaged: it has %d rows, want %d according to its metadata", t.name, row, want)
	}
	return nil
}

func (t *table) readRow(c *collection, split int, labels []uint16, submit func(job) error, row int, values parquet.Row) error {
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
		return c.unreadable(where, fmt.Errorf("label is %d, want 0 to %d", label, len(labels)-1))
	case len(image) == 0:
		return c.unreadable(where, errors.New("no image"))
	case len(image) > maxFile:
		return c.unreadable(where, errFileTooLarge)
	}
	data := pool.get()
	data.Write(image) // copy: the library reuses its memory for the next rows
	return submit(job{
		split: split, class: labels[label], path: where, data: data,
		key: fmt.Sprintf("%s#%09d", t.name, row),
	})
}
