// Package config composes the configuration of a training run from YAML files and overrides,
// like a small [Hydra]. Call [Load] to compose a configuration, and [LoadFile] to read one that
// [Config.YAML] wrote.
//
// The configuration directory holds config.yaml, whose `defaults` list selects one file from
// each group (dataset/, model/, optimizer/, …). An override either selects another file of a
// group (experiment=base) or sets a single value (experiment.epochs=6). ${experiment.lr} is
// replaced by the value of that key. The result is a complete, type-checked [Config] with every
// value in range, or an error that lists all problems at once.
//
// The package supports this subset of Hydra: the defaults list with _self_, defaults lists in
// a group's files (naming files of the same group), choices, values and interpolation. It
// rejects adding (+key) and deleting (~key) keys, sweeps, @package and resolvers (${oc.env:…}).
//
// [Hydra]: https://hydra.cc
package config

// Config is a complete, validated configuration. It holds plain values only, so two Configs
// describe the same run if they are deeply equal.
type Config struct {
	Run        Run        `koanf:"run"`
	Dataset    Dataset    `koanf:"dataset"`
	Model      Model      `koanf:"model"`
	Optimizer  Optimizer  `koanf:"optimizer"`
	Experiment Experiment `koanf:"experiment"`
	Profiler   Profiler   `koanf:"profiler"`
	Evaluate   Evaluate   `koanf:"evaluate"`
}

// Run sets where a training run stores its files.
type Run struct {
	Root   string `koanf:"root"`   // parent directory of all runs
	Dir    string `koanf:"dir"`    // directory of this run; empty: <root>/<time>-<name>
	Name   string `koanf:"name"`   // safe as part of a file name
	Resume bool   `koanf:"resume"` // continue from the last checkpoint
}

// Dataset selects the images to train on. Name determines which of the other fields apply;
// the others are zero.
type Dataset struct {
	Name          string `koanf:"name"`                                       // synthetic, archive, feedback or huggingface
	Path          string `koanf:"path" only:"archive,feedback"`               // source: directory, .zip, .tar or .tar.gz; for feedback a prediction log
	Dir           string `koanf:"dir"`                                        // directory of the prepared dataset
	Strict        bool   `koanf:"strict" only:"archive,feedback,huggingface"` // fail on an unreadable image
	Seed          int64  `koanf:"seed" only:"synthetic"`
	TrainPerClass int    `koanf:"train_per_class" only:"synthetic"` // at least 1
	TestPerClass  int    `koanf:"test_per_class" only:"synthetic"`  // at least 1
	Repo          string `koanf:"repo" only:"huggingface"`          // <owner>/<name>
	Revision      string `koanf:"revision" only:"huggingface"`      // branch, tag or commit
	Endpoint      string `koanf:"endpoint" only:"huggingface"`      // empty: HF_ENDPOINT or the public hub
}

// Model sets the architecture of the network and the decision threshold.
type Model struct {
	Channels  []int   `koanf:"channels"`  // output channels of each block, 1 to 5 blocks
	Dense     []int   `koanf:"dense"`     // hidden widths, at least one; the last is the embedding
	Slope     float64 `koanf:"slope"`     // leaky ReLU, [0,1)
	Dropout   float64 `koanf:"dropout"`   // [0,1)
	Threshold float64 `koanf:"threshold"` // an image is classified as FAKE above this probability, (0,1)
}

// Optimizer sets how gradients update the weights. Name determines which of the other fields
// apply; the others are zero.
type Optimizer struct {
	Name        string  `koanf:"name"`                // adam or sgd
	LR          float64 `koanf:"lr"`                  // peak learning rate, above 0
	WeightDecay float64 `koanf:"weight_decay"`        // L2 penalty, 0 or more
	Beta1       float64 `koanf:"beta1" only:"adam"`   // [0,1)
	Beta2       float64 `koanf:"beta2" only:"adam"`   // [0,1)
	Epsilon     float64 `koanf:"epsilon" only:"adam"` // above 0
	Momentum    float64 `koanf:"momentum" only:"sgd"` // [0,1)
	Nesterov    bool    `koanf:"nesterov" only:"sgd"` // requires Momentum above 0
}

// Experiment holds the hyperparameters that change from run to run. Training doesn't read LR
// and Dropout directly: optimizer.lr and model.dropout refer to them by interpolation.
type Experiment struct {
	Name         string  `koanf:"name"`
	Epochs       int     `koanf:"epochs"`        // 1 to MaxEpochs
	BatchSize    int     `koanf:"batch_size"`    // 1 to MaxBatchSize
	LR           float64 `koanf:"lr"`            // above 0
	Dropout      float64 `koanf:"dropout"`       // [0,1)
	Seed         int64   `koanf:"seed"`          // any
	Schedule     string  `koanf:"schedule"`      // constant or cosine
	WarmupEpochs float64 `koanf:"warmup_epochs"` // 0 to Epochs
	ValSplit     float64 `koanf:"val_split"`     // fraction of train held out, (0,0.5]
	Patience     int     `koanf:"patience"`      // 0: no early stopping
	Flip         bool    `koanf:"flip"`          // random horizontal flips
	Layout       string  `koanf:"layout"`        // auto, standard or blocked
	Threads      int     `koanf:"threads"`       // 0: all cores
}

// Profiler selects the profile that training records.
type Profiler struct {
	Name string `koanf:"name"` // none, pprof or onnxruntime
}

// Evaluate sets how a trained model is evaluated.
type Evaluate struct {
	BatchSize int    `koanf:"batch_size"` // 1 to MaxBatchSize
	Split     string `koanf:"split"`      // train or test
}

// MaxBatchSize is the largest batch size allowed. It catches typos before they cause an
// allocation of terabytes.
const MaxBatchSize = 65536

// MaxEpochs is the largest number of epochs allowed. It keeps the number of training steps
// from overflowing.
const MaxEpochs = 1 << 20
