package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/gofiber/fiber/v2"

	"fakeart/internal/imaging"
	"fakeart/server/failure"
	"fakeart/server/infer"
	"fakeart/server/limit"
	"fakeart/server/models"
	"fakeart/server/oip"
)

// tensorFormat is the image format in the log for images received as tensors.
const tensorFormat = "tensor"

// namedModel returns the model in use with the given name and version, which is the digest of its file. An empty version is the
// one in use. If no model is in use, the error is an *failure.Unavailable.
func (m *Main) namedModel(name, version string) (*models.Model, error) {
	d, err := m.models.Find(name)
	if err != nil {
		return nil, err
	}
	use, err := d.InUse()
	if err != nil {
		return nil, err
	}
	return use, checkVersion(version, use)
}

// checkVersion returns an error if a request names a version other than the one in use.
func checkVersion(version string, use *models.Model) error {
	if version != "" && version != use.File.Digest {
		return fiber.NewError(fiber.StatusNotFound, fmt.Sprintf("unknown model version %.80q; the version in use is %q", version, use.File.Digest))
	}
	return nil
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
	return use.Tensors.Metadata(use.Name, use.File.Digest), nil
}

func (m *Main) handleV2ModelReady(c *fiber.Ctx) error {
	ready, err := m.modelReady(c.Params("name"), c.Params("version"))
	if err != nil {
		return err
	}
	if !ready {
		c.Status(fiber.StatusServiceUnavailable)
	}
	return c.JSON(oip.ModelReady{Name: strings.Clone(c.Params("name")), Ready: ready})
}

// modelReady reports whether the named model can serve requests. It returns an error if the name or
// the version is unknown.
func (m *Main) modelReady(name, version string) (bool, error) {
	_, err := m.namedModel(name, version)
	if err != nil && !errors.As(err, new(*failure.Unavailable)) {
		return false, err
	}
	return err == nil && m.working() == nil, nil
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
	return use.Tensors.Config(use.Name, m.config.workers(), use.MaxBatch()), nil
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
		for _, d := range m.models.All() {
			if use := d.Current(); use != nil {
				s.ModelStats = append(s.ModelStats, use.Statistics())
			}
		}
		return s, nil
	}
	use, err := m.namedModel(name, version)
	if err != nil {
		return s, err
	}
	s.ModelStats = append(s.ModelStats, use.Statistics())
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

// modelIndex returns the index of models, without those that aren't ready if onlyReady is set.
func (m *Main) modelIndex(onlyReady bool) []oip.ModelIndex {
	list := []oip.ModelIndex{}
	for _, d := range m.models.All() {
		one := oip.ModelIndex{Name: d.Name(), State: "READY"}
		use, err := d.InUse()
		if err == nil {
			one.Version = use.File.Digest
			err = m.working()
		}
		if err != nil {
			one.State, one.Reason = "UNAVAILABLE", failure.OneLine(err.Error())
		}
		if err == nil || !onlyReady {
			list = append(list, one)
		}
	}
	return list
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
	scores     []float32
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
	if err := x.classifyTensor(t, c.Params("name"), c.Params("version"), func(tensors *oip.Model) error {
		return t.request.Decode(tensors, c.Get(oip.LengthHeader), x.body.Bytes)
	}); err != nil {
		return err
	}
	body, length, err := t.request.AppendResponse(x.response, x.result(t))
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

// result returns the result of classifyTensor.
func (x *exchange) result(t *tensors) oip.Result {
	return oip.Result{ModelName: x.served.Name, ModelVersion: x.served.File.Digest, Scores: t.scores, Embedding: t.embeddings}
}

// admitTensor admits the images of a tensor to the model with the given name and version, after decode has decoded them as
// the model's input. The model can be replaced by one with another input meanwhile.
func (x *exchange) admitTensor(t *tensors, name, version string, decode func(*oip.Model) error) (*infer.Call, error) {
	m := x.m
	deployment, err := m.models.Find(name)
	if err != nil {
		return nil, err
	}
	for {
		use, err := deployment.InUse()
		if err != nil {
			return nil, err
		}
		if err := decode(use.Tensors); err != nil {
			return nil, protocolError(err)
		}
		if err := use.Tensors.CheckValues(t.request.Input); err != nil {
			return nil, protocolError(err)
		}
		if d := t.request.Timeout; d > 0 {
			if own := x.received.Add(d); own.Before(x.deadline) {
				x.deadline = own
			}
		}
		call, err := deployment.Admit(t.request.Batch, x.deadline, x.client)
		if err != nil {
			return nil, m.requestError(err)
		}
		if *models.Of(call).Tensors == *use.Tensors {
			err = checkVersion(version, models.Of(call))
			if err != nil {
				call.Close()
			}
			return call, err
		}
		call.Close()
	}
}

// classifyTensor runs the model with the given name and version on each image of a tensor and logs the predictions. decode
// decodes the request. An empty version is the one in use.
func (x *exchange) classifyTensor(t *tensors, name, version string, decode func(*oip.Model) error) (err error) {
	m := x.m
	call, err := x.admitTensor(t, name, version, decode)
	if err != nil {
		return err
	}
	defer call.Close()
	x.served, x.tensor = models.Of(call), true
	defer func() { x.count(err) }()
	plan := x.served.File.Plan
	size := plan.Len()
	for i := range t.request.Batch {
		input := t.request.Input.Slice(i*size, (i+1)*size)
		x.images = append(x.images, inputImage{job: call.Next()})
		p := &x.images[i]
		p.job.Input.Copy(input)
		call.Submit(p.job)
		if m.logs() {
			p.describeTensor(plan, input)
		}
	}
	t.scores, t.embeddings = t.scores[:0], t.embeddings[:0]
	if err := x.wait(call); err != nil {
		return m.requestError(err)
	}
	for i := range x.images {
		p := &x.images[i]
		if p.err != nil {
			return p.err
		}
		t.scores = append(t.scores, p.job.Scores...)
		t.embeddings = append(t.embeddings, p.job.Embedding...)
	}
	return x.log()
}

// describeTensor sets the fields of the log record that describe an image received as a tensor.
// Its statistics are those of the pixels that the plan would convert to the tensor.
func (p *inputImage) describeTensor(plan *imaging.Plan, tensor imaging.Tensor) {
	pixels, size := make([]uint8, plan.Len()), plan.Preprocessing()
	plan.Pixels(pixels, tensor)
	digest := sha256.New()
	digest.Write(tensor.Uint8)
	p.record.ImageBytes = len(tensor.Uint8)
	if tensor.Uint8 == nil {
		var bytes [4 * 256]byte
		for values := range slices.Chunk(tensor.Float32, len(bytes)/4) {
			for i, v := range values {
				binary.LittleEndian.PutUint32(bytes[4*i:], math.Float32bits(v))
			}
			digest.Write(bytes[:4*len(values)])
		}
		p.record.ImageBytes = 4 * len(tensor.Float32)
	}
	digest.Sum(p.record.ImageSHA256[:0])
	p.record.ImageFormat, p.record.Width, p.record.Height = tensorFormat, size.Width, size.Height
	p.setStats(statsOf(plan, pixels))
}
