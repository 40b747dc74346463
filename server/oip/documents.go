package oip

// The documents of the protocol, as clients see them. The tags doc and example
// are for the OpenAPI document that a server makes of these types.

// Extensions are the extensions of the protocol that this package speaks.
func Extensions() []string { return []string{"binary_tensor_data"} }

// Platform names the runtime of the model, as Triton names it.
const Platform = "onnxruntime_onnx"

// ServerMetadata answers GET /v2.
type ServerMetadata struct {
	Name       string   `json:"name" doc:"Name of the server" example:"fakeart"`
	Version    string   `json:"version" doc:"Version of the server" example:"1.0.0"`
	Extensions []string `json:"extensions" nullable:"false" doc:"Extensions of the protocol that the server speaks" example:"[\"binary_tensor_data\"]"`
}

// ModelMetadata answers GET /v2/models/{name}[/versions/{version}].
type ModelMetadata struct {
	Name     string           `json:"name" doc:"Name of the model" example:"fakeart"`
	Versions []string         `json:"versions,omitempty" nullable:"false" doc:"Versions that can be asked for" example:"[\"1\"]"`
	Platform string           `json:"platform" doc:"What runs the model" example:"onnxruntime_onnx"`
	Inputs   []TensorMetadata `json:"inputs" nullable:"false" doc:"Tensors that the model takes"`
	Outputs  []TensorMetadata `json:"outputs" nullable:"false" doc:"Tensors that the model gives"`
}

// TensorMetadata describes an input or output of the model.
type TensorMetadata struct {
	Name     string `json:"name" doc:"Name of the tensor" example:"input"`
	Datatype string `json:"datatype" doc:"Type of its values" example:"FP32"`
	Shape    []int  `json:"shape" nullable:"false" doc:"Its dimensions; -1 is the number of pictures" example:"[-1,3,32,32]"`
}

// Metadata describes a model of this shape with the given name, an embedding of
// the given width and the versions that can be asked for, if any.
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

// Live answers GET /v2/health/live; the status says the same.
type Live struct {
	Live bool `json:"live" doc:"Whether the server takes requests" example:"true"`
}

// Ready answers GET /v2/health/ready; the status says the same.
type Ready struct {
	Ready bool `json:"ready" doc:"Whether the server can answer inference requests" example:"true"`
}

// ModelReady answers GET /v2/models/{name}[/versions/{version}]/ready; the status
// says the same.
type ModelReady struct {
	Name  string `json:"name" doc:"Name of the model" example:"fakeart"`
	Ready bool   `json:"ready" doc:"Whether the model can be asked" example:"true"`
}

// ErrorObject is the body of every answer of the protocol that is not 200. See
// AppendError.
type ErrorObject struct {
	Error string `json:"error" doc:"What is wrong, and what is wanted" example:"input \"input\" has the datatype \"FP64\": want \"FP32\""`
}

// InferRequest is the JSON of an inference request. It describes what
// Request.Decode reads; it is not used to read it.
type InferRequest struct {
	_ struct{} `additionalProperties:"true"`

	ID         string         `json:"id,omitempty" doc:"Name of the request, given back in the answer" example:"42"`
	Parameters map[string]any `json:"parameters,omitempty" doc:"binary_data_output (true or false): send outputs as binary data unless they say otherwise; timeout (integer): microseconds that the client is willing to wait. Others are ignored."`
	Inputs     []InferInput   `json:"inputs" nullable:"false" doc:"The tensor \"input\"" minItems:"1" maxItems:"1"`
	Outputs    []InferOutput  `json:"outputs,omitempty" doc:"Outputs to send, in this order; all when there are none"`
}

// InferInput is the input of an inference request.
type InferInput struct {
	_ struct{} `additionalProperties:"true"`

	Name       string         `json:"name" doc:"Name of the tensor" enum:"input"`
	Shape      []int          `json:"shape" nullable:"false" doc:"Its dimensions: pictures, channels, rows, columns" example:"[1,3,32,32]"`
	Datatype   string         `json:"datatype" doc:"Type of its values" enum:"FP32"`
	Parameters map[string]any `json:"parameters,omitempty" doc:"binary_data_size (integer): how many bytes behind the JSON hold the values. Others are ignored."`
	Data       any            `json:"data,omitempty" doc:"The values, finite numbers in row-major order: a list, flat or nested as the shape has it. Left out when they are sent as binary data."`
}

// InferOutput asks for an output.
type InferOutput struct {
	_ struct{} `additionalProperties:"true"`

	Name       string         `json:"name" doc:"Name of the tensor" enum:"logit,embedding"`
	Parameters map[string]any `json:"parameters,omitempty" doc:"binary_data (true or false): send the values as binary data behind the JSON. Others are ignored."`
}

// InferResponse is the JSON of the answer to an inference request. It describes
// what Request.AppendResponse writes; it is not used to write it.
type InferResponse struct {
	ID           string           `json:"id,omitempty" doc:"Name that the client gave its request" example:"42"`
	ModelName    string           `json:"model_name" doc:"Name of the model" example:"fakeart"`
	ModelVersion string           `json:"model_version,omitempty" doc:"Version of the model that answered" example:"1"`
	Outputs      []ResponseOutput `json:"outputs" nullable:"false" doc:"The outputs, in the order they were asked for"`
}

// ResponseOutput is an output of the model.
type ResponseOutput struct {
	Name       string            `json:"name" doc:"Name of the tensor" enum:"logit,embedding"`
	Datatype   string            `json:"datatype" doc:"Type of its values" enum:"FP32"`
	Shape      []int             `json:"shape" nullable:"false" doc:"Its dimensions: pictures, values of each" example:"[1,1]"`
	Parameters *OutputParameters `json:"parameters,omitempty" doc:"Given when the values follow as binary data"`
	Data       []float32         `json:"data,omitempty" nullable:"false" doc:"The values in row-major order, unless they follow as binary data" example:"[-3.5]"`
}

// OutputParameters tell where the values of an output are.
type OutputParameters struct {
	BinaryDataSize int `json:"binary_data_size" doc:"How many of the bytes behind the JSON hold the values, little-endian" example:"4"`
}
