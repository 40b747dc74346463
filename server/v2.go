package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/gofiber/fiber/v2"

	"fakeart/internal/imaging"
	"fakeart/server/failure"
	"fakeart/server/limit"
	"fakeart/server/oip"
)

// modelName is the name of the model in the Open Inference Protocol. Versions are digests of
// model files.
const modelName = "fakeart"

// tensorFormat is the image format in the log for images received as tensors.
const tensorFormat = "tensor"

// namedModel returns the model in use if it has the given name and version. An empty version is the
// one in use. If no model is in use, the error is an *failure.Unavailable.
func (m *Main) namedModel(name, version string) (*served, error) {
	if name != modelName {
		return nil, fiber.NewError(fiber.StatusNotFound, fmt.Sprintf("unknown model %.80q; the model is called %q", name, modelName))
	}
	use, err := m.models.inUse()
	if err != nil {
		return nil, err
	}
	return use, checkVersion(version, use)
}

// checkVersion returns an error if a request names a version other than the one in use.
func checkVersion(version string, use *served) error {
	if version != "" && version != use.file.Digest {
		return fiber.NewError(fiber.StatusNotFound, fmt.Sprintf("unknown model version %.80q; the version in use is %q", version, use.file.Digest))
	}
	return nil
}

func (m *Main) shape() oip.Shape {
	return oip.Shape{Channels: imaging.Channels, Size: imaging.Size, MaxBatch: m.config.MaxImages}
}

func (m *Main) handleV2Model(c *fiber.Ctx) error {
	metadata, err := m.modelMetadata(c.Params("name"), c.Params("version"))
	if err != nil {
		return err
	}
	return c.JSON(metadata)
}

func (m *Main) modelMetadata(name, version string) (oip.ModelMetadata, error) {
	use, err := m.namedModel(name, version)
	if err != nil {
		return oip.ModelMetadata{}, err
	}
	return m.shape().Metadata(modelName, use.file.EmbeddingSize, use.file.Digest), nil
}

func (m *Main) handleV2ModelReady(c *fiber.Ctx) error {
	ready, err := m.modelReady(c.Params("name"), c.Params("version"))
	if err != nil {
		return err
	}
	if !ready {
		c.Status(fiber.StatusServiceUnavailable)
	}
	return c.JSON(oip.ModelReady{Name: modelName, Ready: ready})
}

// modelReady reports whether the named model can serve requests. It returns an error if the name or
// the version is unknown.
func (m *Main) modelReady(name, version string) (bool, error) {
	_, err := m.namedModel(name, version)
	if err != nil && !errors.As(err, new(*failure.Unavailable)) {
		return false, err
	}
	return m.unready() == nil, nil
}

func (m *Main) handleV2Config(c *fiber.Ctx) error {
	config, err := m.modelConfig(c.Params("name"), c.Params("version"))
	if err != nil {
		return err
	}
	return c.JSON(config)
}

func (m *Main) modelConfig(name, version string) (oip.ModelConfig, error) {
	use, err := m.namedModel(name, version)
	if err != nil {
		return oip.ModelConfig{}, err
	}
	return m.shape().Config(modelName, use.file.EmbeddingSize, m.config.workers(), m.config.MaxBatch), nil
}

func (m *Main) handleV2Stats(c *fiber.Ctx) error {
	s, err := m.modelStatistics(c.Params("name"), c.Params("version"))
	if err != nil {
		return err
	}
	return c.JSON(s)
}

// modelStatistics returns the statistics of the named model, or of all models in use if name is empty.
func (m *Main) modelStatistics(name, version string) (oip.Statistics, error) {
	s := oip.Statistics{ModelStats: []oip.ModelStatistics{}}
	if name == "" {
		if use := m.models.current.Load(); use != nil {
			s.ModelStats = append(s.ModelStats, use.statistics())
		}
		return s, nil
	}
	use, err := m.namedModel(name, version)
	if err != nil {
		return s, err
	}
	s.ModelStats = append(s.ModelStats, use.statistics())
	return s, nil
}

func (m *Main) handleV2Index(c *fiber.Ctx) error {
	var b limit.Body
	defer m.bodies.Free(&b)
	if err := m.front.ReadBody(c, &b); err != nil {
		return err
	}
	request := &oip.IndexRequest{}
	if len(b.Bytes) > 0 {
		err := json.Unmarshal(b.Bytes, &request)
		if err == nil && request == nil {
			err = errors.New("expected an object, got null")
		}
		if err != nil {
			return fiber.NewError(fiber.StatusBadRequest, fmt.Sprintf(`invalid JSON body: %s; send {"ready":true}, {} or no body`, jsonMessage(err)))
		}
	}
	return c.JSON(m.modelIndex(request.Ready))
}

// modelIndex returns the index of models: the one model, which is omitted if onlyReady is set and it
// isn't ready.
func (m *Main) modelIndex(onlyReady bool) []oip.ModelIndex {
	one := oip.ModelIndex{Name: modelName, State: "READY"}
	if use := m.models.current.Load(); use != nil {
		one.Version = use.file.Digest
	}
	if err := m.unready(); err != nil {
		if onlyReady {
			return []oip.ModelIndex{}
		}
		one.State, one.Reason = "UNAVAILABLE", failure.OneLine(err.Error())
	}
	return []oip.ModelIndex{one}
}

func (m *Main) handleV2Live(c *fiber.Ctx) error { return c.JSON(oip.Live{Live: true}) }

func (m *Main) handleV2Ready(c *fiber.Ctx) error {
	status := fiber.StatusOK
	if m.unready() != nil {
		status = fiber.StatusServiceUnavailable
	}
	return c.Status(status).JSON(oip.Ready{Ready: status == fiber.StatusOK})
}

func (m *Main) handleV2Server(c *fiber.Ctx) error { return c.JSON(serverMetadata()) }

func serverMetadata() oip.ServerMetadata {
	return oip.ServerMetadata{Name: "fakeart", Version: versionText(), Extensions: oip.Extensions()}
}

// tensors holds the data of an inference request beyond its exchange. It is pooled.
type tensors struct {
	request    oip.Request
	logits     []float32
	embeddings []float32
}

var tensorPool = sync.Pool{New: func() any { return new(tensors) }}

// handleV2Infer classifies the images in a tensor.
func (m *Main) handleV2Infer(c *fiber.Ctx) error {
	if _, err := m.namedModel(c.Params("name"), c.Params("version")); err != nil {
		return err
	}
	x := m.newExchange(c)
	defer x.free()
	if err := x.readBody(); err != nil {
		return err
	}
	t := tensorPool.Get().(*tensors)
	defer tensorPool.Put(t)
	if err := t.request.Decode(m.shape(), c.Get(oip.LengthHeader), x.body.Bytes); err != nil {
		return protocolError(err)
	}
	if err := x.classifyTensor(t, c.Params("version")); err != nil {
		return err
	}
	body, length, err := t.request.AppendResponse(x.response, oip.Result{
		ModelName: modelName, ModelVersion: x.served.file.Digest, Logit: t.logits, Embedding: t.embeddings,
	})
	if err != nil {
		return protocolError(err)
	}
	h := &c.Response().Header
	if length > 0 {
		h.SetContentType(oip.TypeBinary)
		h.Set(oip.LengthHeader, fmt.Sprint(length))
	} else {
		h.SetContentType(oip.TypeJSON)
		body = append(body, '\n')
	}
	x.response = body
	c.Response().SetBody(body)
	return nil
}

// protocolError converts an error of package oip to one with its HTTP status.
func protocolError(err error) error {
	if e, ok := errors.AsType[*oip.Error](err); ok {
		return fiber.NewError(e.Status, e.Message)
	}
	return err
}

// classifyTensor runs a model on each image of the tensor and logs the predictions: the model in use,
// which must have the given version unless that is empty.
func (x *exchange) classifyTensor(t *tensors, version string) (err error) {
	m := x.m
	if err := oip.CheckValues(t.request.Input); err != nil {
		return protocolError(err)
	}
	if d := t.request.Timeout; d > 0 {
		if own := x.received.Add(d); own.Before(x.deadline) {
			x.deadline = own
		}
	}
	call, err := m.engine.Admit(t.request.Batch, x.deadline, x.client)
	if err != nil {
		return m.requestError(err)
	}
	defer call.Close()
	use := call.Model().Data.(*served)
	if err := checkVersion(version, use); err != nil {
		return err
	}
	x.served = use
	defer func() { x.count(err) }()
	const size = imaging.Channels * imaging.Size * imaging.Size
	for i := range t.request.Batch {
		input := t.request.Input[i*size:][:size]
		x.images = append(x.images, inputImage{job: call.Next()})
		p := &x.images[i]
		copy(p.job.Input.Float32, input)
		call.Submit(p.job)
		if m.logs() {
			p.describeTensor(input)
		}
	}
	t.logits, t.embeddings = t.logits[:0], t.embeddings[:0]
	if err := x.wait(call); err != nil {
		return m.requestError(err)
	}
	for i := range x.images {
		p := &x.images[i]
		if p.err != nil {
			return p.err
		}
		t.logits = append(t.logits, p.job.Scores...)
		t.embeddings = append(t.embeddings, p.job.Embedding...)
	}
	return x.log()
}

// describeTensor sets the fields of the log record that describe an image received as a tensor.
// Its statistics are those of the pixels that a plan would convert to the tensor.
func (p *inputImage) describeTensor(tensor []float32) {
	const plane = imaging.Size * imaging.Size
	var levels [imaging.Channels * plane]uint8
	digest := sha256.New()
	var bytes [4 * 256]byte
	for i, v := range tensor {
		level := uint8(min(max(math.Round(float64(v)*255), 0), 255))
		levels[i%plane*imaging.Channels+i/plane] = level
		binary.LittleEndian.PutUint32(bytes[i%256*4:], math.Float32bits(v))
		if i%256 == 255 {
			digest.Write(bytes[:])
		}
	}
	digest.Sum(p.record.ImageSHA256[:0])
	p.record.ImageFormat, p.record.Width, p.record.Height = tensorFormat, imaging.Size, imaging.Size
	p.record.ImageBytes = 4 * len(tensor)
	p.setStats(imaging.StatsOf(levels[:], imaging.Size, imaging.Channels))
}
