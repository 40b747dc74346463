// Package card makes model cards: what a model file contains, what it was trained on, and how good it is. Use [Read].
package card

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"google.golang.org/protobuf/proto"

	"fakeart/internal/imaging"
	"fakeart/internal/model"
	"fakeart/internal/onnx/onnxpb"
	"fakeart/trainer/foreign"
)

// Card describes a model file. Its JSON is the output of `trainer model show --json`.
type Card struct {
	File          string `json:"file"`
	Digest        string `json:"digest"`
	Bytes         int    `json:"bytes"`
	FormatVersion int    `json:"formatVersion"`
	Name          string `json:"name"`
	Description   string `json:"description,omitempty"`
	License       string `json:"license,omitempty"`
	Source        string `json:"source,omitempty"`

	// Classes are the labels of the classes in the order of the outputs.
	Classes []string `json:"classes"`
	// Positive and Threshold are omitted for models without a positive class.
	Positive  string  `json:"positive,omitempty"`
	Threshold float64 `json:"threshold,omitempty"`

	Input         string                `json:"input"`
	Preprocessing imaging.Preprocessing `json:"preprocessing"`
	// Steps describe the preprocessing in words.
	Steps      []string `json:"steps"`
	Output     string   `json:"output"`
	OutputKind string   `json:"outputKind"`
	Columns    int      `json:"columns"`
	Embedding  *Output  `json:"embedding,omitempty"`
	CAM        *Output  `json:"classActivationMap,omitempty"`

	Graph    Graph     `json:"graph"`
	Training *Training `json:"training,omitempty"`
	// Evaluation is the content of the eval.json beside the file, if it's about this model.
	Evaluation *Evaluation `json:"evaluation,omitempty"`
}

// Output is an optional output.
type Output struct {
	Name string `json:"name"`
	// Shape is that for one image.
	Shape []int  `json:"shape"`
	Kind  string `json:"kind,omitempty"`
}

// Graph describes the ONNX graph.
type Graph struct {
	Producer   string `json:"producer,omitempty"`
	IRVersion  int64  `json:"irVersion"`
	Opset      int64  `json:"opset"`
	Nodes      int    `json:"nodes"`
	Parameters int64  `json:"parameters"`
	// Operators has the number of nodes per operator.
	Operators map[string]int `json:"operators"`
}

// Training is the origin of the model.
type Training struct {
	DataSource   string   `json:"dataSource,omitempty"`
	DataDigest   string   `json:"dataDigest,omitempty"`
	ConfigDigest string   `json:"configDigest,omitempty"`
	Seed         int64    `json:"seed"`
	Revision     string   `json:"revision,omitempty"`
	ValLoss      *float64 `json:"valLoss,omitempty"`
	ValAccuracy  *float64 `json:"valAccuracy,omitempty"`
}

// Evaluation is the part of eval.json that the card shows.
type Evaluation struct {
	Model            string   `json:"model"`
	Split            string   `json:"split"`
	Count            int      `json:"count"`
	Accuracy         float64  `json:"accuracy"`
	BalancedAccuracy *float64 `json:"balanced_accuracy,omitempty"`
	Top5Accuracy     *float64 `json:"top_5_accuracy,omitempty"`
	F1               *float64 `json:"f1,omitempty"`
	ROCAUC           *float64 `json:"roc_auc,omitempty"`
	ROCAUCOvR        *float64 `json:"roc_auc_ovr,omitempty"`
	LogLoss          *float64 `json:"log_loss,omitempty"`
	ECE              *float64 `json:"expected_calibration_error,omitempty"`
	Notes            []string `json:"notes,omitempty"`
}

// Read returns the card of the model file at path, with the metrics of the eval.json in the same folder if there is one for this model.
func Read(path string) (*Card, error) {
	f, err := model.Open(path)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	md := &f.Metadata
	c := &Card{
		File: path, Digest: f.Digest, Bytes: len(data), FormatVersion: md.FormatVersion,
		Name: md.Name, Description: md.Description, License: md.License, Source: md.Source,
		Classes: md.Labels(), Positive: md.Positive, Threshold: md.Threshold,
		Input: md.Input, Preprocessing: md.Preprocessing, Steps: steps(&md.Preprocessing),
		Output: md.Output, OutputKind: string(md.OutputKind), Columns: md.Columns,
	}
	if f.EmbeddingSize > 0 {
		c.Embedding = &Output{Name: md.Embedding, Shape: []int{f.EmbeddingSize}}
	}
	if f.HasCAM() {
		width, height := f.CAMSize()
		c.CAM = &Output{Name: md.CAM, Shape: []int{height, width}, Kind: string(md.CAMKind)}
		if md.CAMKind == model.CAMOfEach {
			c.CAM.Shape = append([]int{len(md.Classes)}, c.CAM.Shape...)
		}
	}
	var m onnxpb.ModelProto
	if err := proto.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	c.Graph = graph(&m)
	c.Training = training(md)
	c.Evaluation = evaluation(filepath.Join(filepath.Dir(path), "eval.json"), f.Digest)
	return c, nil
}

func steps(p *imaging.Preprocessing) []string {
	list := []string{"decode"}
	if p.JPEG == imaging.DCTScaledJPEG {
		list[0] = "decode, JPEGs at 1/2, 1/4 or 1/8 of their size if that still covers the input"
	}
	if p.Orientation == imaging.ApplyOrientation {
		list = append(list, "turn by the EXIF orientation")
	}
	list = append(list, "convert to "+map[imaging.Color]string{imaging.RGB: "RGB", imaging.BGR: "BGR", imaging.Gray: "gray levels"}[p.Color])
	list = append(list, foreign.DescribeFit(p)+" ("+foreign.DescribeFilter(p)+")")
	if p.Type == imaging.Float32 {
		list = append(list, "normalize each level v to "+foreign.DescribeLevels(p))
	}
	return append(list, fmt.Sprintf("arrange as %s, %s", p.Type, strings.ToUpper(string(p.Layout))))
}

func graph(m *onnxpb.ModelProto) Graph {
	g := Graph{
		Producer: strings.TrimSpace(m.GetProducerName() + " " + m.GetProducerVersion()), IRVersion: m.GetIrVersion(),
		Nodes: len(m.GetGraph().GetNode()), Operators: map[string]int{},
	}
	for _, o := range m.GetOpsetImport() {
		if o.GetDomain() == "" || o.GetDomain() == "ai.onnx" {
			g.Opset = o.GetVersion()
		}
	}
	for _, n := range m.GetGraph().GetNode() {
		g.Operators[n.GetOpType()]++
	}
	for _, t := range m.GetGraph().GetInitializer() {
		n := int64(1)
		for _, d := range t.GetDims() {
			n *= d
		}
		if t.GetDataType() != int32(onnxpb.TensorProto_INT64) { // shapes and axes
			g.Parameters += n
		}
	}
	return g
}

// training returns nil for imported models, of which nothing is known.
func training(md *model.Metadata) *Training {
	if md.DataDigest == "" && md.ConfigDigest == "" && md.Revision == "" {
		return nil
	}
	finite := func(v float64) *float64 {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil
		}
		return &v
	}
	return &Training{
		DataSource: md.DataSource, DataDigest: md.DataDigest, ConfigDigest: md.ConfigDigest, Seed: md.Seed, Revision: md.Revision,
		ValLoss: finite(md.ValLoss), ValAccuracy: finite(md.ValAccuracy),
	}
}

// evaluation reads eval.json. It returns nil if the file doesn't exist or is about another model.
func evaluation(path, digest string) *Evaluation {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var e Evaluation
	if json.Unmarshal(data, &e) != nil || e.Model != digest {
		return nil
	}
	return &e
}

// JSON returns the card as JSON.
func (c *Card) JSON() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(c)
	return b.Bytes(), err
}

// row is a line of the card.
type row struct{ Name, Value string }

// section is a part of the card.
type section struct {
	Title string
	Rows  []row
}

// sections returns the card for display.
func (c *Card) sections() []section {
	var list []section
	add := func(title string, rows ...row) {
		rows = slices.DeleteFunc(rows, func(r row) bool { return r.Value == "" })
		if len(rows) > 0 {
			list = append(list, section{title, rows})
		}
	}
	add("Model",
		row{"Name", c.Name}, row{"Description", c.Description}, row{"License", c.License}, row{"Source", c.Source},
		row{"File", fmt.Sprintf("%s, %.1f MB, format %d", c.File, float64(c.Bytes)/1e6, c.FormatVersion)}, row{"Digest", c.Digest})
	threshold := ""
	if c.Positive != "" {
		threshold = fmt.Sprintf("%s, predicted above a probability of %g", c.Positive, c.Threshold)
	}
	add("Classes", row{"Number", fmt.Sprint(len(c.Classes))}, row{"Names", c.names(20)}, row{"Positive class", threshold})
	p := &c.Preprocessing
	add("Input", row{"Tensor", fmt.Sprintf("%s, %s %s", c.Input, p.Type, inputShape(p))}, row{"Preprocessing", strings.Join(c.Steps, "; ")})
	columns := "one per class"
	if c.Columns == 1 {
		columns = "one, for " + c.Classes[1]
	}
	add("Outputs", row{"Scores", fmt.Sprintf("%s, %s, %s", c.Output, c.OutputKind, columns)},
		row{"Embedding", c.Embedding.text()}, row{"Class-activation map", c.CAM.text()})
	add("Graph", row{"Parameters", thousands(c.Graph.Parameters)}, row{"Operators", c.operators()},
		row{"Version", fmt.Sprintf("opset %d, IR version %d", c.Graph.Opset, c.Graph.IRVersion)}, row{"Producer", c.Graph.Producer})
	if t := c.Training; t != nil {
		add("Training", row{"Data", t.DataSource}, row{"Data digest", t.DataDigest}, row{"Configuration digest", t.ConfigDigest},
			row{"Seed", fmt.Sprint(t.Seed)}, row{"Revision", t.Revision}, row{"Validation loss", fixed(t.ValLoss)}, row{"Validation accuracy", percent(t.ValAccuracy)})
	}
	if e := c.Evaluation; e != nil {
		add("Evaluation", row{"Images", fmt.Sprintf("%d of the %s split", e.Count, e.Split)}, row{"Accuracy", percent(&e.Accuracy)},
			row{"Balanced accuracy", percent(e.BalancedAccuracy)}, row{"Top-5 accuracy", percent(e.Top5Accuracy)}, row{"F1", fixed(e.F1)},
			row{"ROC AUC", fixed(e.ROCAUC)}, row{"ROC AUC, one versus rest", fixed(e.ROCAUCOvR)}, row{"Log loss", fixed(e.LogLoss)},
			row{"Calibration error", fixed(e.ECE)}, row{"Notes", strings.Join(e.Notes, "; ")})
	}
	return list
}

func inputShape(p *imaging.Preprocessing) string {
	if p.Layout == imaging.NHWC {
		return fmt.Sprintf("[batch,%d,%d,%d]", p.Height, p.Width, p.Channels())
	}
	return fmt.Sprintf("[batch,%d,%d,%d]", p.Channels(), p.Height, p.Width)
}

func (o *Output) text() string {
	if o == nil {
		return ""
	}
	var dims []string
	for _, d := range o.Shape {
		dims = append(dims, fmt.Sprint(d))
	}
	text := o.Name + ", [batch," + strings.Join(dims, ",") + "]"
	if o.Kind != "" {
		text += ", evidence for " + map[string]string{"second": "the second class", "predicted": "the predicted class", "each": "each class"}[o.Kind]
	}
	return text
}

// names returns the first labels in quotes.
func (c *Card) names(most int) string {
	var list []string
	for _, name := range c.Classes[:min(most, len(c.Classes))] {
		list = append(list, fmt.Sprintf("%q", name))
	}
	text := strings.Join(list, ", ")
	if more := len(c.Classes) - len(list); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

// operators lists operators in descending order of their number.
func (c *Card) operators() string {
	var names []string
	for name := range c.Graph.Operators {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		if d := c.Graph.Operators[b] - c.Graph.Operators[a]; d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	const most = 12
	var list []string
	for _, name := range names[:min(most, len(names))] {
		list = append(list, fmt.Sprintf("%d %s", c.Graph.Operators[name], name))
	}
	if len(names) > most {
		list = append(list, fmt.Sprintf("%d other kinds", len(names)-most))
	}
	return strings.Join(list, ", ")
}

func percent(v *float64) string {
	if v == nil {
		return ""
	}
	return fmt.Sprintf("%.2f %%", 100**v)
}

func fixed(v *float64) string {
	if v == nil {
		return ""
	}
	return fmt.Sprintf("%.4f", *v)
}

// thousands formats a number with commas.
func thousands(n int64) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

// WriteTable writes the card for a terminal.
func (c *Card) WriteTable(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for i, s := range c.sections() {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s\n", s.Title)
		for _, r := range s.Rows {
			fmt.Fprintf(w, "  %s\t%s\n", r.Name, r.Value)
		}
	}
	return w.Flush()
}

//go:embed card.html.tmpl
var page string

var pageTemplate = template.Must(template.New("card").Parse(page))

// HTML returns the card as a page that loads nothing.
func (c *Card) HTML() ([]byte, error) {
	var b bytes.Buffer
	tiles := []row{{"Classes", fmt.Sprint(len(c.Classes))}, {"Input", fmt.Sprintf("%d×%d", c.Preprocessing.Width, c.Preprocessing.Height)}, {"Parameters", short(c.Graph.Parameters)}}
	switch {
	case c.Evaluation != nil:
		tiles = append(tiles, row{"Accuracy (" + c.Evaluation.Split + ")", percent(&c.Evaluation.Accuracy)})
	case c.Training != nil && c.Training.ValAccuracy != nil:
		tiles = append(tiles, row{"Accuracy (validation)", percent(c.Training.ValAccuracy)})
	}
	sections := c.sections()
	for i := range sections {
		sections[i].Rows = slices.DeleteFunc(sections[i].Rows, func(r row) bool { return r.Name == "Names" || r.Name == "Preprocessing" })
	}
	err := pageTemplate.Execute(&b, map[string]any{"Card": c, "Tiles": tiles, "Sections": sections})
	return b.Bytes(), err
}

// short formats a number with a unit.
func short(n int64) string {
	switch v := float64(n); {
	case v >= 1e9:
		return fmt.Sprintf("%.1f B", v/1e9)
	case v >= 1e6:
		return fmt.Sprintf("%.1f M", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.0f k", v/1e3)
	}
	return fmt.Sprint(n)
}
