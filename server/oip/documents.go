package oip

// The protocol's documents. The tags doc and example are for the OpenAPI document that a server
// generates from these types.

// Extensions returns the names of the protocol extensions that this package implements.
func Extensions() []string { return []string{"binary_tensor_data"} }

// Platform is Triton's name of the model's runtime.
const Platform = "onnxruntime_onnx"

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

// Metadata describes a model with this input shape, an embedding of the given width, and the given
// versions, if any.
func (s Shape) Metadata(name string, embedding int, versions ...string) ModelMetadata {
	return ModelMetadata{
		Name: name, Versions: versions, Platform: Platform,
		Inputs: []TensorMetadata{{Name: InputName, Datatype: Datatype, Shape: []int{-1, s.Channels, s.Size, s.Size}}},
		Outputs: []TensorMetadata{
			{Name: LogitName, Datatype: Datatype, Shape: []int{-1, 1}},
			{Name: EmbeddingName, Datatype: Datatype, Shape: []int{-1, embedding}},
		},
	}
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

	ID         string         `json:"id,omitempty" doc:"Identifier of the request, returned in the response" example:"42"`
	Parameters map[string]any `json:"parameters,omitempty" doc:"binary_data_output (true or false): default of the outputs' binary_data; timeout (integer): maximum waiting time in microseconds. Others are ignored."`
	Inputs     []InferInput   `json:"inputs" nullable:"false" doc:"The tensor \"input\"" minItems:"1" maxItems:"1"`
	Outputs    []InferOutput  `json:"outputs,omitempty" doc:"Outputs to return, in this order; all if omitted or empty"`
}

// InferInput is the input of an inference request.
type InferInput struct {
	_ struct{} `additionalProperties:"true"`

	Name       string         `json:"name" doc:"Name of the tensor" enum:"input"`
	Shape      []int          `json:"shape" nullable:"false" doc:"Dimensions: images, channels, rows, columns" example:"[1,3,32,32]"`
	Datatype   string         `json:"datatype" doc:"Type of the values" enum:"FP32"`
	Parameters map[string]any `json:"parameters,omitempty" doc:"binary_data_size (integer): size in bytes of the values after the JSON. Others are ignored."`
	Data       any            `json:"data,omitempty" doc:"The values, finite numbers in row-major order: an array, flat or nested like the shape. Omit it if the values are sent as binary data."`
}

// InferOutput is a requested output.
type InferOutput struct {
	_ struct{} `additionalProperties:"true"`

	Name       string         `json:"name" doc:"Name of the tensor" enum:"logit,embedding"`
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
	Name       string            `json:"name" doc:"Name of the tensor" enum:"logit,embedding"`
	Datatype   string            `json:"datatype" doc:"Type of the values" enum:"FP32"`
	Shape      []int             `json:"shape" nullable:"false" doc:"Dimensions: images, values per image" example:"[1,1]"`
	Parameters *OutputParameters `json:"parameters,omitempty" doc:"Set if the values follow as binary data"`
	Data       []float32         `json:"data,omitempty" nullable:"false" doc:"The values in row-major order, unless they follow as binary data" example:"[-3.5]"`
}

// OutputParameters describes the values of a binary output.
type OutputParameters struct {
	BinaryDataSize int `json:"binary_data_size" doc:"Size in bytes of the little-endian values after the JSON" example:"4"`
}
