// Package config composes the configuration of a training run from YAML files and overrides,
// like a small [Hydra]. Call [Load] to compose a configuration, and [LoadFile] to read one that
// [Config.YAML] wrote.
//
// The configuration directory holds config.yaml, whose `defaults` list selects one file from
// each group (dataset/, model/, optimizer/, …). An override either selects another file of a
// group (experiment=base) or sets a single value (experiment.epochs=6). ${experiment.lr} is
// replaced by the value of that key. The result is a complete, type-checked [Config] with every
// value in range, or an error that lists all problems at once and quotes values as they were written.
//
// Numbers are read by one rule on the command line, in files and in lists: decimal, even with leading
// zeros, unless they have a prefix 0x, 0o or 0b. null is a value of no key. The files are YAML with
// anchors and merge keys, one document per file, without tags.
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
	Run        Run        `key:"run"`
	Dataset    Dataset    `key:"dataset"`
	Augment    Augment    `key:"augment"`
	Model      Model      `key:"model"`
	Optimizer  Optimizer  `key:"optimizer"`
	Experiment Experiment `key:"experiment"`
	Profiler   Profiler   `key:"profiler"`
	Evaluate   Evaluate   `key:"evaluate"`
}

// Run sets where a training run stores its files.
type Run struct {
	Root   string `key:"root"`   // parent directory of all runs
	Dir    string `key:"dir"`    // directory of this run; empty: <root>/<time>-<name>
	Name   string `key:"name"`   // safe as part of a file name
	Resume bool   `key:"resume"` // continue from the last checkpoint
}

// Dataset selects the images to train on. Name determines which of the other fields apply;
// the others are zero.
type Dataset struct {
	Name          string  `key:"name"`                                                   // synthetic, folder, archive, feedback or huggingface
	Path          string  `key:"path" only:"folder,archive,feedback"`                    // source: directory, .zip or .tar; for feedback a prediction log
	Dir           string  `key:"dir"`                                                    // directory of the prepared dataset
	Size          int     `key:"size" only:"folder,archive,feedback,huggingface"`        // width and height in pixels, 2 to MaxSize
	Fit           string  `key:"fit" only:"folder,archive,feedback,huggingface"`         // stretch, shortest-edge or contain
	Orientation   string  `key:"orientation" only:"folder,archive,feedback,huggingface"` // ignore or apply
	JPEG          string  `key:"jpeg" only:"folder,archive,feedback,huggingface"`        // full or dct
	Strict        bool    `key:"strict" only:"folder,archive,feedback,huggingface"`      // fail on unreadable images and on warnings
	Seed          int64   `key:"seed" only:"synthetic,folder"`                           // of the images, or of the split
	TestSplit     float64 `key:"test_split" only:"folder"`                               // fraction of an undivided folder, [0,0.5]
	Model         string  `key:"model" only:"feedback"`                                  // model file whose classes the labels are, or empty
	TrainPerClass int     `key:"train_per_class" only:"synthetic"`                       // at least 1
	TestPerClass  int     `key:"test_per_class" only:"synthetic"`                        // at least 1
	Repo          string  `key:"repo" only:"huggingface"`                                // <owner>/<name>
	Revision      string  `key:"revision" only:"huggingface"`                            // branch, tag or commit
	Endpoint      string  `key:"endpoint" only:"huggingface"`                            // empty: HF_ENDPOINT or the public hub
}

// Augment sets the random changes of the training images, drawn again in each epoch. They are applied in the order of the
// fields.
type Augment struct {
	Flip       bool    `key:"flip"`       // horizontal, half of the images
	Crop       float64 `key:"crop"`       // margin around the image as a fraction of its side, [0,1)
	Padding    string  `key:"padding"`    // reflect or constant: how Crop fills the margin
	RandomOps  int     `key:"random_ops"` // number of operations from RandAugment's set, 0 to MaxRandomOps
	Magnitude  float64 `key:"magnitude"`  // of these, [0,1]
	Brightness float64 `key:"brightness"` // range of factors, [0,1]
	Contrast   float64 `key:"contrast"`   // range of factors, [0,1]
	Saturation float64 `key:"saturation"` // range of factors, [0,1]
	Cutout     float64 `key:"cutout"`     // side of a gray square as a fraction of the image's, [0,1]
}

// Model sets the architecture of the network and the decision threshold.
type Model struct {
	Stem       int     `key:"stem"`        // channels of a block without pooling before the others; 0: none
	Channels   []int   `key:"channels"`    // output channels of each block, at least one
	Residual   []int   `key:"residual"`    // residual units after each block; empty: none
	GlobalPool bool    `key:"global_pool"` // average over all positions before the dense layers
	Dense      []int   `key:"dense"`       // hidden widths, at least one without GlobalPool; the last is the embedding
	Slope      float64 `key:"slope"`       // leaky ReLU, [0,1)
	Dropout    float64 `key:"dropout"`     // [0,1)
	Positive   string  `key:"positive"`    // positive class of two, PositiveAuto or empty
	Threshold  float64 `key:"threshold"`   // an image is classified as Positive above this probability, (0,1)
}

// PositiveAuto is the value of model.positive for FAKE in models for the classes of CIFAKE, and for no positive class in others.
const PositiveAuto = "auto"

// Optimizer sets how gradients update the weights. Name determines which of the other fields
// apply; the others are zero.
type Optimizer struct {
	Name         string  `key:"name"`                      // adam, adamw or sgd
	LR           float64 `key:"lr"`                        // peak learning rate, above 0
	WeightDecay  float64 `key:"weight_decay"`              // 0 or more
	DecayKernels bool    `key:"decay_kernels"`             // only weights of convolutions and dense layers decay
	Beta1        float64 `key:"beta1" only:"adam,adamw"`   // [0,1)
	Beta2        float64 `key:"beta2" only:"adam,adamw"`   // [0,1)
	Epsilon      float64 `key:"epsilon" only:"adam,adamw"` // above 0
	Momentum     float64 `key:"momentum" only:"sgd"`       // [0,1)
	Nesterov     bool    `key:"nesterov" only:"sgd"`       // requires Momentum above 0
}

// Experiment holds the hyperparameters that change from run to run. Training doesn't read LR
// and Dropout directly: optimizer.lr and model.dropout refer to them by interpolation.
type Experiment struct {
	Name           string  `key:"name"`
	Epochs         int     `key:"epochs"`          // 1 to MaxEpochs
	BatchSize      int     `key:"batch_size"`      // 1 to MaxBatchSize
	LR             float64 `key:"lr"`              // above 0
	Dropout        float64 `key:"dropout"`         // [0,1)
	Seed           int64   `key:"seed"`            // any
	Init           string  `key:"init"`            // model file to start from, or empty
	Schedule       string  `key:"schedule"`        // constant, cosine or onecycle
	WarmupEpochs   float64 `key:"warmup_epochs"`   // 0 to Epochs
	EMA            float64 `key:"ema"`             // decay of the average of the weights, [0,1); 0: none
	ClassWeights   string  `key:"class_weights"`   // ClassWeightsNone, ClassWeightsBalanced or CLASS=WEIGHT,…
	LabelSmoothing float64 `key:"label_smoothing"` // [0,1)
	Mixup          float64 `key:"mixup"`           // parameter of the beta distribution, 0 or more; 0: none
	ValSplit       float64 `key:"val_split"`       // fraction of train held out, (0,0.5]
	Patience       int     `key:"patience"`        // 0: no early stopping
	Layout         string  `key:"layout"`          // auto, standard or blocked
	Threads        int     `key:"threads"`         // 0: all cores
}

// Values of experiment.class_weights.
const (
	ClassWeightsNone     = "none"
	ClassWeightsBalanced = "balanced"
)

// Profiler selects the profile that training records.
type Profiler struct {
	Name string `key:"name"` // none, pprof or onnxruntime
}

// Evaluate sets how a trained model is evaluated.
type Evaluate struct {
	BatchSize int `key:"batch_size"` // 1 to MaxBatchSize
}

// MaxBatchSize is the largest batch size allowed. It catches typos before they cause an
// allocation of terabytes.
const MaxBatchSize = 65536

// MaxSize is the largest width and height of an image of a dataset, in pixels.
const MaxSize = 1024

// MaxRandomOps is the largest number of random operations per image.
const MaxRandomOps = 16

// MaxEpochs is the largest number of epochs allowed. It keeps the number of training steps
// from overflowing.
const MaxEpochs = 1 << 20
