package oip

import "strings"

// The protocol's documents. The tags doc and example are for the OpenAPI document that a server
// generates from these types.

// Extensions returns the names of the protocol extensions that this package implements.
func Extensions() []string {
	return []string{"binary_tensor_data", "model_configuration", "statistics"}
}

// Triton's names of the model's runtime.
const (
	Platform = "onnxruntime_onnx"
	Backend  = "onnxruntime"
)

// ServerMetadata is the response to GET /v2.
type ServerMetadata struct {
	Name       string   `json:"name" doc:"Name of the server" example:"fakeart"`
	Version    string   `json:"version" doc:"Version of the server" example:"1.0.0"`
	Extensions []string `json:"extensions" nullable:"false" doc:"Protocol extensions that the server supports" example:"[\"binary_tensor_data\"]"`
}

// ModelMetadata is the response to GET /v2/models/{name}[/versions/{version}].
type ModelMetadata struct {
	Name     string           `json:"name" doc:"Name of the model" example:"fakeart"`
	Versions []string         `json:"versions,omitempty" nullable:"false" doc:"Available versions" example:"[\"1\"]"`
	Platform string           `json:"platform" doc:"Runtime of the model" example:"onnxruntime_onnx"`
	Inputs   []TensorMetadata `json:"inputs" nullable:"false" doc:"Input tensors"`
	Outputs  []TensorMetadata `json:"outputs" nullable:"false" doc:"Output tensors"`
}

// TensorMetadata describes an input or output of the model.
type TensorMetadata struct {
	Name     string `json:"name" doc:"Name of the tensor" example:"input"`
	Datatype string `json:"datatype" doc:"Type of the values" example:"FP32"`
	Shape    []int  `json:"shape" nullable:"false" doc:"Dimensions; -1 stands for the number of images" example:"[-1,3,32,32]"`
}

// Metadata describes the model with the given name and versions, if any.
func (m *Model) Metadata(name string, versions ...string) ModelMetadata {
	d := ModelMetadata{
		Name: name, Versions: versions, Platform: Platform,
		Inputs:  []TensorMetadata{{Name: m.Input, Datatype: m.Datatype, Shape: append([]int{-1}, m.Dims[:]...)}},
		Outputs: []TensorMetadata{{Name: m.Scores, Datatype: Float32, Shape: []int{-1, m.Columns}}},
	}
	if m.Embedding != "" {
		d.Outputs = append(d.Outputs, TensorMetadata{Name: m.Embedding, Datatype: Float32, Shape: []int{-1, m.EmbeddingSize}})
	}
	return d
}

// ModelConfig is the response to GET /v2/models/{name}[/versions/{version}]/config: the part of
// Triton's model configuration that applies. Its JSON is that of Triton's message ModelConfig.
type ModelConfig struct {
	Name            string          `json:"name" doc:"Name of the model" example:"fakeart"`
	Platform        string          `json:"platform" doc:"Runtime of the model" example:"onnxruntime_onnx"`
	Backend         string          `json:"backend" doc:"Name of the runtime as a backend of Triton" example:"onnxruntime"`
	VersionPolicy   VersionPolicy   `json:"version_policy" doc:"Versions that are served"`
	MaxBatchSize    int             `json:"max_batch_size" doc:"Maximum number of images per request" example:"128"`
	Input           []TensorConfig  `json:"input" nullable:"false" doc:"Input tensors"`
	Output          []TensorConfig  `json:"output" nullable:"false" doc:"Output tensors"`
	InstanceGroup   []InstanceGroup `json:"instance_group" nullable:"false" doc:"Sessions that run the model"`
	DynamicBatching DynamicBatching `json:"dynamic_batching" doc:"How requests are combined"`
}

// VersionPolicy states which versions of a model are served.
type VersionPolicy struct {
	Latest LatestVersions `json:"latest" doc:"The latest versions"`
}

// LatestVersions are the latest versions of a model.
type LatestVersions struct {
	NumVersions int `json:"num_versions" doc:"Number of versions" example:"1"`
}

// TensorConfig describes an input or output of the model.
type TensorConfig struct {
	Name     string `json:"name" doc:"Name of the tensor" example:"input"`
	DataType string `json:"data_type" doc:"Type of the values" example:"TYPE_FP32"`
	Format   string `json:"format,omitempty" doc:"Order of the dimensions of an input" example:"FORMAT_NCHW"`
	Dims     []int  `json:"dims" nullable:"false" doc:"Dimensions, without the number of images" example:"[3,32,32]"`
}

// InstanceGroup describes the sessions that run the model.
type InstanceGroup struct {
	Name  string `json:"name" doc:"Name of the group" example:"fakeart"`
	Kind  string `json:"kind" doc:"Kind of processor" example:"KIND_CPU"`
	Count int    `json:"count" doc:"Number of sessions" example:"2"`
}

// DynamicBatching describes how requests are combined to batches.
type DynamicBatching struct {
	PreferredBatchSize []int `json:"preferred_batch_size" nullable:"false" doc:"Maximum number of images that a session classifies at once" example:"[8]"`
}

// Config describes the model with the given name and number of sessions, which classify up to batch images at once.
func (m *Model) Config(name string, sessions, batch int) ModelConfig {
	const float = "TYPE_" + Float32
	d := ModelConfig{
		Name: name, Platform: Platform, Backend: Backend, VersionPolicy: VersionPolicy{LatestVersions{1}}, MaxBatchSize: m.MaxBatch,
		Input:           []TensorConfig{{Name: m.Input, DataType: "TYPE_" + m.Datatype, Format: "FORMAT_" + strings.ToUpper(string(m.Layout)), Dims: m.Dims[:]}},
		Output:          []TensorConfig{{Name: m.Scores, DataType: float, Dims: []int{m.Columns}}},
		InstanceGroup:   []InstanceGroup{{name, "KIND_CPU", sessions}},
		DynamicBatching: DynamicBatching{[]int{batch}},
	}
	if m.Embedding != "" {
		d.Output = append(d.Output, TensorConfig{Name: m.Embedding, DataType: float, Dims: []int{m.EmbeddingSize}})
	}
	return d
}

// Statistics is the response to GET /v2/models/stats and /v2/models/{name}[/versions/{version}]/stats.
type Statistics struct {
	ModelStats []ModelStatistics `json:"model_stats" nullable:"false" doc:"Statistics of each model in use"`
}

// ModelStatistics are the statistics of one model since it was put in use.
type ModelStatistics struct {
	Name           string            `json:"name" doc:"Name of the model" example:"fakeart"`
	Version        string            `json:"version" doc:"Version of the model" example:"1"`
	LastInference  int64             `json:"last_inference" doc:"When the last request finished, in milliseconds since 1970; 0 before the first one"`
	InferenceCount int64             `json:"inference_count" doc:"Images classified"`
	ExecutionCount int64             `json:"execution_count" doc:"Batches classified"`
	InferenceStats InferStatistics   `json:"inference_stats" doc:"Times of requests and batches"`
	BatchStats     []BatchStatistics `json:"batch_stats" nullable:"false" doc:"Times of the batches of each size"`
}

// InferStatistics are the times of requests and batches.
type InferStatistics struct {
	Success       StatisticDuration `json:"success" doc:"Successful requests, from receipt to result"`
	Fail          StatisticDuration `json:"fail" doc:"Failed requests"`
	Queue         StatisticDuration `json:"queue" doc:"Waiting times of successful requests for a session"`
	ComputeInput  StatisticDuration `json:"compute_input" doc:"Batches: time to prepare the input"`
	ComputeInfer  StatisticDuration `json:"compute_infer" doc:"Batches: time to run the model"`
	ComputeOutput StatisticDuration `json:"compute_output" doc:"Batches: time to read the output"`
}

// BatchStatistics are the times of the batches of one size.
type BatchStatistics struct {
	BatchSize     int               `json:"batch_size" doc:"Images per batch" example:"8"`
	ComputeInput  StatisticDuration `json:"compute_input" doc:"Time to prepare the input"`
	ComputeInfer  StatisticDuration `json:"compute_infer" doc:"Time to run the model"`
	ComputeOutput StatisticDuration `json:"compute_output" doc:"Time to read the output"`
}

// StatisticDuration is a number of durations and their sum.
type StatisticDuration struct {
	Count       int64 `json:"count" doc:"Number of durations"`
	Nanoseconds int64 `json:"ns" doc:"Sum of the durations in nanoseconds"`
}

// Add adds the durations of other.
func (d *StatisticDuration) Add(other StatisticDuration) {
	d.Count += other.Count
	d.Nanoseconds += other.Nanoseconds
}

// IndexRequest is the optional body of POST /v2/repository/index.
type IndexRequest struct {
	_ struct{} `additionalProperties:"true"`

	Ready bool `json:"ready,omitempty" nullable:"true" doc:"Return only models that are ready"`
}

// ModelIndex describes a model in the response to POST /v2/repository/index, which is a list.
type ModelIndex struct {
	Name    string `json:"name" doc:"Name of the model" example:"fakeart"`
	Version string `json:"version,omitempty" doc:"Version of the model; absent if none is in use" example:"1"`
	State   string `json:"state" enum:"READY,UNAVAILABLE" doc:"Whether the model can serve requests"`
	Reason  string `json:"reason" doc:"Why the model is unavailable; empty if it is ready"`
}

// Live is the response to GET /v2/health/live. The status code carries the same information.
type Live struct {
	Live bool `json:"live" doc:"Whether the server accepts requests" example:"true"`
}

// Ready is the response to GET /v2/health/ready. The status code carries the same information.
type Ready struct {
	Ready bool `json:"ready" doc:"Whether the server can answer inference requests" example:"true"`
}

// ModelReady is the response to GET /v2/models/{name}[/versions/{version}]/ready. The status code
// carries the same information.
type ModelReady struct {
	Name  string `json:"name" doc:"Name of the model" example:"fakeart"`
	Ready bool   `json:"ready" doc:"Whether the model can answer inference requests" example:"true"`
}

// ErrorObject is the body of every response of the protocol whose status isn't 200; see
// AppendError.
type ErrorObject struct {
	Error string `json:"error" doc:"Description of the error, and the expected value" example:"input \"input\" has the datatype \"FP64\": expected \"FP32\""`
}

// InferRequest is the JSON of an inference request. It documents what Request.Decode reads, which
// doesn't use it.
type InferRequest struct {
	_ struct{} `additionalProperties:"true"`

	ID         string         `json:"id,omitempty" nullable:"true" doc:"Identifier of the request, returned in the response" example:"42"`
	Parameters map[string]any `json:"parameters,omitempty" doc:"binary_data_output (true or false): default of the outputs' binary_data; timeout (integer): maximum waiting time in microseconds. Others are ignored."`
	Inputs     []InferInput   `json:"inputs" nullable:"false" doc:"The model's only input" minItems:"1" maxItems:"1"`
	Outputs    []InferOutput  `json:"outputs,omitempty" doc:"Outputs to return, in this order, each once; all if omitted or empty" maxItems:"2" uniqueItems:"true"`
}

// InferInput is the input of an inference request.
type InferInput struct {
	_ struct{} `additionalProperties:"true"`

	Name       string         `json:"name" doc:"Name of the tensor, as in the model's metadata" example:"input"`
	Shape      []int          `json:"shape" nullable:"false" minItems:"4" maxItems:"4" doc:"Dimensions: images, followed by those of an image, as in the model's metadata" example:"[1,3,32,32]"`
	Datatype   string         `json:"datatype" doc:"Type of the values, as in the model's metadata" enum:"FP32,UINT8"`
	Parameters map[string]any `json:"parameters,omitempty" doc:"binary_data_size (integer): size in bytes of the values after the JSON. Others are ignored."`
	Data       any            `json:"data,omitempty" doc:"The values in row-major order: an array of numbers, flat or nested like the shape. Omit it if the values are sent as binary data."`
}

// InferOutput is a requested output.
type InferOutput struct {
	_ struct{} `additionalProperties:"true"`

	Name       string         `json:"name" doc:"Name of the tensor, as in the model's metadata" example:"logit"`
	Parameters map[string]any `json:"parameters,omitempty" doc:"binary_data (true or false): return the values as binary data after the JSON. Others are ignored."`
}

// InferResponse is the JSON of the response to an inference request. It documents what
// Request.AppendResponse writes, which doesn't use it.
type InferResponse struct {
	ID           string           `json:"id,omitempty" doc:"Identifier that the client gave the request" example:"42"`
	ModelName    string           `json:"model_name" doc:"Name of the model" example:"fakeart"`
	ModelVersion string           `json:"model_version,omitempty" doc:"Version of the model" example:"1"`
	Outputs      []ResponseOutput `json:"outputs" nullable:"false" doc:"The outputs, in the requested order"`
}

// ResponseOutput is an output of the model.
type ResponseOutput struct {
	Name       string            `json:"name" doc:"Name of the tensor" example:"logit"`
	Datatype   string            `json:"datatype" doc:"Type of the values" enum:"FP32"`
	Shape      []int             `json:"shape" nullable:"false" doc:"Dimensions: images, values per image" example:"[1,1]"`
	Parameters *OutputParameters `json:"parameters,omitempty" doc:"Set if the values follow as binary data"`
	Data       []float32         `json:"data,omitempty" nullable:"false" doc:"The values in row-major order, unless they follow as binary data" example:"[-3.5]"`
}

// OutputParameters describes the values of a binary output.
type OutputParameters struct {
	BinaryDataSize int `json:"binary_data_size" doc:"Size in bytes of the little-endian values after the JSON" example:"4"`
}
