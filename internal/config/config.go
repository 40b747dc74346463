// Package config composes what a run is made of, in the manner of Hydra.
//
// A folder of YAML files holds config.yaml, whose `defaults` list takes one
// file of each group (dataset/, model/, optimizer/, …). Overrides then either
// take another file of a group (experiment=base) or set one value
// (experiment.epochs=6), and ${experiment.lr} stands for the value of another
// key. The result is one Config: every key known, every type right and every
// value in its range, or an error that names all that is wrong.
//
// Of Hydra's language these parts exist: the defaults list with _self_, lists
// in a group's files that take other files of the same group, choices, values
// and interpolation. Adding (+key) and deleting (~key), sweeps, @package and
// resolvers (${oc.env:…}) are refused.
package config

// Config is one complete, validated configuration. It holds plain values only:
// two Configs describe the same run when they are deeply equal.
type Config struct {
	Run        Run        `koanf:"run"`
	Dataset    Dataset    `koanf:"dataset"`
	Model      Model      `koanf:"model"`
	Optimizer  Optimizer  `koanf:"optimizer"`
	Experiment Experiment `koanf:"experiment"`
	Profiler   Profiler   `koanf:"profiler"`
	Evaluate   Evaluate   `koanf:"evaluate"`
}

// Run says where a training run keeps its files.
type Run struct {
	Root   string `koanf:"root"`   // folder of all runs
	Dir    string `koanf:"dir"`    // this run's folder; empty: <root>/<time>-<name>
	Name   string `koanf:"name"`   // safe as part of a file name
	Resume bool   `koanf:"resume"` // continue from the last checkpoint
}

// Dataset says which pictures to learn from. Name decides which of the other
// fields apply; those that do not are zero.
type Dataset struct {
	Name          string `koanf:"name"`                                       // synthetic, archive, feedback or huggingface
	Path          string `koanf:"path" only:"archive,feedback"`               // source: folder, .zip, .tar or .tar.gz; or a prediction log
	Dir           string `koanf:"dir"`                                        // the prepared data set
	Strict        bool   `koanf:"strict" only:"archive,feedback,huggingface"` // an unreadable picture is fatal
	Seed          int64  `koanf:"seed" only:"synthetic"`
	TrainPerClass int    `koanf:"train_per_class" only:"synthetic"` // at least 1
	TestPerClass  int    `koanf:"test_per_class" only:"synthetic"`  // at least 1
	Repo          string `koanf:"repo" only:"huggingface"`          // <owner>/<name>
	Revision      string `koanf:"revision" only:"huggingface"`      // branch, tag or commit
	Endpoint      string `koanf:"endpoint" only:"huggingface"`      // empty: HF_ENDPOINT or the public hub
}

// Model describes the network.
type Model struct {
	Channels  []int   `koanf:"channels"`  // output channels of each block, 1 to 5 blocks
	Dense     []int   `koanf:"dense"`     // hidden widths, at least one; the last is the embedding
	Slope     float64 `koanf:"slope"`     // leaky ReLU, [0,1)
	Dropout   float64 `koanf:"dropout"`   // [0,1)
	Threshold float64 `koanf:"threshold"` // probability above which a picture is FAKE, (0,1)
}

// Optimizer says how gradients become steps. Name decides which of the other
// fields apply; those that do not are zero.
type Optimizer struct {
	Name        string  `koanf:"name"`                // adam or sgd
	LR          float64 `koanf:"lr"`                  // peak learning rate, above 0
	WeightDecay float64 `koanf:"weight_decay"`        // L2 penalty, 0 or more
	Beta1       float64 `koanf:"beta1" only:"adam"`   // [0,1)
	Beta2       float64 `koanf:"beta2" only:"adam"`   // [0,1)
	Epsilon     float64 `koanf:"epsilon" only:"adam"` // above 0
	Momentum    float64 `koanf:"momentum" only:"sgd"` // [0,1)
	Nesterov    bool    `koanf:"nesterov" only:"sgd"` // wants Momentum above 0
}

// Experiment holds what one varies from run to run. LR and Dropout are what
// configuration files interpolate; Optimizer.LR and Model.Dropout are what the
// training uses.
type Experiment struct {
	Name         string  `koanf:"name"`
	Epochs       int     `koanf:"epochs"`        // 1 to MaxEpochs
	BatchSize    int     `koanf:"batch_size"`    // 1 to MaxBatchSize
	LR           float64 `koanf:"lr"`            // above 0
	Dropout      float64 `koanf:"dropout"`       // [0,1)
	Seed         int64   `koanf:"seed"`          // any
	Schedule     string  `koanf:"schedule"`      // constant or cosine
	WarmupEpochs float64 `koanf:"warmup_epochs"` // 0 to Epochs
	ValSplit     float64 `koanf:"val_split"`     // share of train held out, (0,0.5]
	Patience     int     `koanf:"patience"`      // 0: no early stopping
	Flip         bool    `koanf:"flip"`          // random horizontal flips
	Layout       string  `koanf:"layout"`        // auto, standard or blocked
	Threads      int     `koanf:"threads"`       // 0: all cores
}

// Profiler says what to record while training.
type Profiler struct {
	Name string `koanf:"name"` // none, pprof or onnxruntime
}

// Evaluate says how a trained model is measured.
type Evaluate struct {
	BatchSize int    `koanf:"batch_size"` // 1 to MaxBatchSize
	Split     string `koanf:"split"`      // train or test
}

// MaxBatchSize bounds batch sizes, so that a slip of the finger is refused
// here and not by an allocation of terabytes.
const MaxBatchSize = 65536

// MaxEpochs bounds the epochs likewise, so that the steps of a run can be counted.
const MaxEpochs = 1 << 20
