package oip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"fakeart/internal/imaging"
)

// decoder decodes one request.
type decoder struct {
	reader
	model   *Model
	request *Request
	binary  []byte // the bytes after the JSON
	split   bool   // the client sent LengthHeader

	tensor       tensor     // the input
	binaryOutput bool       // the form of outputs that don't specify it
	formOf       [2]outForm // form of request.Outputs[i]
}

// outForm is the form in which an output was requested.
type outForm int

const (
	asRequest outForm = iota // not specified: the default of the request
	asJSON
	asBinary
)

// once returns an error if a member appears twice, because one of the two would have to be ignored.
// seen has one bit per member; bit is the index of this one.
func once(seen *uint, bit uint, name string) error {
	if *seen&(1<<bit) != 0 {
		return invalid("%s appears twice", name)
	}
	*seen |= 1 << bit
	return nil
}

func (d *decoder) decode() error {
	var seen uint
	var inputs int
	err := d.object("the body", func(key []byte) error {
		switch string(key) {
		case "id":
			return d.member(&seen, 0, `"id"`, func(name string) error {
				id, err := d.string(name)
				d.request.ID = string(id)
				return err
			})
		case "parameters":
			return d.member(&seen, 1, `"parameters"`, d.parameters)
		case "inputs":
			return d.member(&seen, 2, `"inputs"`, func(name string) error {
				return d.array(name, func(i int) error {
					inputs++
					return d.input(i)
				})
			})
		case "outputs":
			return d.member(&seen, 3, `"outputs"`, func(name string) error { return d.array(name, d.output) })
		}
		return d.skip()
	})
	if err != nil {
		return err
	}
	if d.peek(); d.at < len(d.data) {
		return d.syntaxError("the end of the request")
	}
	if inputs == 0 {
		return d.model.noInputs()
	}
	d.chooseOutputs()
	return d.readBinary()
}

func (m *Model) noInputs() error {
	return invalid(`"inputs" is missing: expected the tensor %q, %s, %s`, m.Input, m.Datatype, m.shape())
}

// member reads the value of a member with read, unless it is null. It returns an error if the
// member appears twice.
func (d *decoder) member(seen *uint, bit uint, name string, read func(name string) error) error {
	if err := once(seen, bit, name); err != nil {
		return err
	}
	if null, err := d.null(); null || err != nil {
		return err
	}
	return read(name)
}

// parameters reads the parameters of the request.
func (d *decoder) parameters(name string) error {
	var seen uint
	return d.object(name, func(key []byte) error {
		switch string(key) {
		case "binary_data_output":
			return d.member(&seen, 0, `the parameter "binary_data_output"`, func(name string) (err error) {
				d.binaryOutput, err = d.boolean(name)
				return err
			})
		case "timeout":
			return d.member(&seen, 1, `the parameter "timeout"`, func(name string) error {
				us, err := d.integer(name)
				if err != nil {
					return err
				}
				return d.setTimeout(name, us)
			})
		}
		return d.skip()
	})
}

// tensor is the input as parsed so far.
type tensor struct {
	name, datatype []byte
	dims           [4]int64
	rank           int   // 0 until the shape is read
	size           int64 // in binary form, in bytes
	hasSize        bool
	dataAt         int // offset of skipped data, 0 if none
	hasData        bool
}

// input reads the i-th input. It reads the values directly if name, datatype and shape precede
// them, as in the requests of all common clients. Otherwise it skips them, and reads them when the
// other members are known.
func (d *decoder) input(i int) error {
	var seen uint
	d.tensor = tensor{}
	t := &d.tensor
	err := d.object(`an element of "inputs"`, func(key []byte) error {
		switch string(key) {
		case "name":
			return d.member(&seen, 0, `the "name" of an input`, func(name string) (err error) {
				t.name, err = d.string(name)
				return err
			})
		case "datatype":
			return d.member(&seen, 1, `the "datatype" of an input`, func(name string) (err error) {
				t.datatype, err = d.string(name)
				return err
			})
		case "shape":
			return d.member(&seen, 2, `the "shape" of an input`, func(name string) error { return d.dims(t, name) })
		case "parameters":
			return d.member(&seen, 3, `the "parameters" of an input`, func(name string) error { return d.inputParameters(t, name) })
		case "data":
			return d.member(&seen, 4, `the "data" of an input`, func(string) error {
				t.hasData = true
				if i == 0 && t.name != nil && t.datatype != nil && t.rank > 0 {
					if err := d.check(t, i); err != nil {
						return err
					}
					return d.readData()
				}
				t.dataAt = d.at
				return d.skip()
			})
		}
		return d.skip()
	})
	if err != nil {
		return err
	}
	if err := d.check(t, i); err != nil {
		return err
	}
	if t.dataAt > 0 {
		end := d.at
		d.at = t.dataAt
		if err := d.readData(); err != nil {
			return err
		}
		d.at = end
	}
	return nil
}

// check compares the input with what the model expects, and sets the number of images of the
// request.
func (d *decoder) check(t *tensor, i int) error {
	m := d.model
	switch {
	case t.name == nil:
		return invalid(`inputs[%d] has no "name": expected %q`, i, m.Input)
	case string(t.name) != m.Input:
		return invalid("unknown input %.80q: the model's only input is %q, %s, %s", t.name, m.Input, m.Datatype, m.shape())
	case i > 0:
		return invalid("input %q appears twice", m.Input)
	case t.datatype == nil:
		return invalid(`input %q has no "datatype": expected %q`, m.Input, m.Datatype)
	case string(t.datatype) != m.Datatype:
		return invalid("input %q has the datatype %.40q: expected %q", m.Input, t.datatype, m.Datatype)
	case t.rank == 0:
		return invalid(`input %q has no "shape": expected %s`, m.Input, m.shape())
	}
	n := t.dims[0]
	if t.rank != len(t.dims) || t.dims != [4]int64{n, int64(m.Dims[0]), int64(m.Dims[1]), int64(m.Dims[2])} {
		return invalid("input %q has the shape %s: expected %s", m.Input, t.shapeText(), m.shape())
	}
	if n < 1 || n > int64(m.MaxBatch) {
		return invalid("input %q has %d images: expected 1 to %d per request", m.Input, n, m.MaxBatch)
	}
	d.request.Batch = int(n)
	return nil
}

// shapeText returns the shape for error messages, abbreviated if it has more than four dimensions.
func (t *tensor) shapeText() string {
	text := []byte("[")
	for i := range min(t.rank, len(t.dims)) {
		if i > 0 {
			text = append(text, ',')
		}
		text = fmt.Append(text, t.dims[i])
	}
	if t.rank > len(t.dims) {
		text = fmt.Appendf(text, ",…] of %d dimensions", t.rank)
		return string(text)
	}
	return string(append(text, ']'))
}

// dims reads the shape of the input.
func (d *decoder) dims(t *tensor, name string) error {
	err := d.array(name, func(i int) error {
		n, err := d.integer("a dimension of the shape")
		if err != nil {
			return err
		}
		if n < 0 {
			return invalid("dimension %d of the shape is %d: expected %s", i, n, d.model.shape())
		}
		if i < len(t.dims) {
			t.dims[i] = n
		}
		t.rank++
		return nil
	})
	if err == nil && t.rank == 0 {
		return invalid("%s is empty: expected %s", name, d.model.shape())
	}
	return err
}

func (d *decoder) inputParameters(t *tensor, name string) error {
	var seen uint
	return d.object(name, func(key []byte) error {
		switch {
		case string(key) == "binary_data_size":
			return d.member(&seen, 0, `the parameter "binary_data_size"`, func(name string) (err error) {
				t.size, err = d.integer(name)
				t.hasSize = true
				return err
			})
		case sharedMemory(string(key)):
			return d.unsupported(key, `send the values as "data" or as binary data`)
		}
		return d.skip()
	})
}

// sharedMemory reports whether the key is that of a parameter of the shared memory extension.
func sharedMemory(key string) bool {
	return key == "shared_memory_region" || key == "shared_memory_byte_size" || key == "shared_memory_offset"
}

// unsupportedOutput lists the parameters of outputs that aren't supported, with what to do instead.
var unsupportedOutput = map[string]string{
	"classification":          "leave it out; POST /predict returns labels and probabilities",
	"shared_memory_region":    "leave it out to get the values in the response",
	"shared_memory_byte_size": "leave it out to get the values in the response",
	"shared_memory_offset":    "leave it out to get the values in the response",
}

// unsupported returns the error for a parameter of an extension that isn't supported.
func unsupported(key, instead string) error {
	return invalid("the parameter %q is not supported: %s", key, instead)
}

// unsupported reads the value of a parameter of an extension that isn't supported. It returns an error
// unless the value is null.
func (d *decoder) unsupported(key []byte, instead string) error {
	name := string(key) // valid only until the next read
	if null, err := d.null(); null || err != nil {
		return err
	}
	return unsupported(name, instead)
}

// output reads the i-th requested output.
func (d *decoder) output(i int) error {
	var seen, seenParameters uint
	var name []byte
	var form outForm
	err := d.object(`an element of "outputs"`, func(key []byte) error {
		switch string(key) {
		case "name":
			return d.member(&seen, 0, `the "name" of an output`, func(what string) (err error) {
				name, err = d.string(what)
				return err
			})
		case "parameters":
			return d.member(&seen, 1, `the "parameters" of an output`, func(what string) error {
				return d.object(what, func(key []byte) error {
					if string(key) == "binary_data" {
						return d.member(&seenParameters, 0, `the parameter "binary_data"`, func(what string) error {
							binary, err := d.boolean(what)
							form = asJSON
							if binary {
								form = asBinary
							}
							return err
						})
					}
					if instead, ok := unsupportedOutput[string(key)]; ok {
						return d.unsupported(key, instead)
					}
					return d.skip()
				})
			})
		}
		return d.skip()
	})
	if err != nil {
		return err
	}
	return d.addOutput(i, name, form)
}

// addOutput adds the i-th requested output to the request.
func (d *decoder) addOutput(i int, name []byte, form outForm) error {
	m := d.model
	o := Output{Name: m.Scores}
	switch {
	case string(name) == m.Scores:
	case len(name) == 0:
		return invalid(`outputs[%d] has no "name": the model has %s`, i, m.outputs())
	case string(name) == m.Embedding:
		o = Output{Name: m.Embedding, Embedding: true}
	default:
		return invalid("unknown output %.80q: the model has %s", name, m.outputs())
	}
	for _, other := range d.request.Outputs {
		if other.Embedding == o.Embedding {
			return invalid("output %q is requested twice", o.Name)
		}
	}
	d.formOf[len(d.request.Outputs)] = form
	d.request.Outputs = append(d.request.Outputs, o)
	return nil
}

// chooseOutputs selects all outputs if none is requested, and sets their forms.
func (d *decoder) chooseOutputs() {
	if len(d.request.Outputs) == 0 {
		d.request.addAllOutputs(d.model)
	}
	for i := range d.request.Outputs {
		d.request.Outputs[i].Binary = d.formOf[i] == asBinary || d.formOf[i] == asRequest && d.binaryOutput
	}
}

// readBinary reads the values of the input from the bytes after the JSON, unless they were part of
// the JSON.
func (d *decoder) readBinary() error {
	t, m := &d.tensor, d.model
	count := d.request.Batch * m.imageSize()
	want := count * m.valueSize()
	switch {
	case t.hasData && t.hasSize:
		return invalid(`input %q has both "data" and the parameter "binary_data_size": expected one of them`, m.Input)
	case t.hasData && len(d.binary) > 0:
		return invalid(`%d unexpected bytes after the JSON: input %q has its "data" in the JSON`, len(d.binary), m.Input)
	case t.hasData:
		return nil
	case !t.hasSize && d.split:
		return invalid(`input %q has neither "data" nor the parameter "binary_data_size", which gives the number of its bytes among the %d after the JSON`, m.Input, len(d.binary))
	case !t.hasSize:
		return invalid(`input %q has no "data": expected %d numbers`, m.Input, count)
	case !d.split:
		return invalid(`input %q has the parameter "binary_data_size": expected the header %s as well, with the length of the JSON`, m.Input, LengthHeader)
	case t.size != int64(want):
		return invalid("the parameter \"binary_data_size\" is %d: expected %d, %s", t.size, want, m.sizeOf(count))
	case len(d.binary) < want:
		return invalid("the parameter \"binary_data_size\" is %d, but only %d bytes follow the JSON", t.size, len(d.binary))
	case len(d.binary) > want:
		return invalid("%d unexpected bytes after the %d of input %q", len(d.binary)-want, want, m.Input)
	}
	d.request.grow(m)
	if i := copyValues(d.request.Input, d.binary); i >= 0 {
		return m.notFinite(i)
	}
	return nil
}

// sizeOf explains the size of a number of values in binary form.
func (m *Model) sizeOf(count int) string {
	if m.Datatype == Uint8 {
		return fmt.Sprintf("1 byte for each of the %d values", count)
	}
	return fmt.Sprintf("%d bytes for each of the %d values", floatSize, count)
}

// copyValues decodes little-endian values from raw. It returns the index of the first that is NaN
// or infinite, or -1 if all are finite.
func copyValues(to imaging.Tensor, raw []byte) int {
	if to.Uint8 != nil {
		copy(to.Uint8, raw)
		return -1
	}
	return copyFloats(to.Float32, raw)
}

// copyFloats decodes little-endian values from raw. It returns the index of the first that is NaN
// or infinite, or -1 if all are finite.
func copyFloats(values []float32, raw []byte) int {
	const exponent = 0x7f800000 // all ones in infinities and NaN
	for i := range values {
		bits := binary.LittleEndian.Uint32(raw[i*floatSize:])
		if bits&exponent == exponent {
			return i
		}
		values[i] = math.Float32frombits(bits)
	}
	return -1
}

// readData reads the values of the input from the JSON. The array may be flat, or nested like the
// first dimensions of the shape. So an array of images with one flat array of values each is
// accepted.
func (d *decoder) readData() error {
	m := d.model
	count := d.request.Batch * m.imageSize()
	levels := d.levels()
	switch {
	case levels == 0:
		return d.wrongKind(`the "data" of an input`, "an array of numbers")
	case levels > 4:
		return invalid(`the "data" of input %q is nested deeper than its 4 dimensions`, m.Input)
	case len(d.data)-d.at < 2*count:
		// Each value takes at least a digit and a comma. Checking it first bounds the memory that a
		// shape can make the decoder allocate.
		return invalid(`the JSON ends before the %d values required by the shape of input %q`, count, m.Input)
	}
	d.request.grow(m)
	dims := []int{d.request.Batch, m.Dims[0], m.Dims[1], m.Dims[2]}
	return d.values(d.request.Input, dims[:levels-1], 0)
}

// levels returns the number of brackets at the beginning of the data, at most 5.
func (d *decoder) levels() int {
	ahead := d.reader
	n := 0
	for ; ahead.peek() == '[' && n <= 4; n++ {
		ahead.at++
	}
	return n
}

// values reads the next array into values: one nested array per element of the first dimension, or
// numbers if dims is empty. level is the nesting depth.
func (d *decoder) values(values imaging.Tensor, dims []int, level int) error {
	if d.peek() != '[' {
		return d.irregular(level)
	}
	if len(dims) == 0 {
		return d.numbers(values, level)
	}
	d.at++
	n := dims[0]
	for i := range n {
		if d.peek() == ']' {
			return d.wrongCount(level, n, "arrays", fmt.Sprint(i))
		}
		if err := d.values(values.Slice(i*values.Len()/n, (i+1)*values.Len()/n), dims[1:], level+1); err != nil {
			return err
		}
		if err := d.separate(i, n, level, "arrays"); err != nil {
			return err
		}
	}
	return nil
}

// numbers reads the next array, of numbers, into values.
func (d *decoder) numbers(values imaging.Tensor, level int) error {
	d.at++
	n := values.Len()
	for i := range n {
		c := d.peek()
		if c == ']' {
			return d.wrongCount(level, n, "numbers", fmt.Sprint(i))
		}
		if c == '[' {
			return d.irregular(level)
		}
		if c != '-' && (c < '0' || c > '9') {
			return d.wrongKind(fmt.Sprintf(`a value in the "data" of input %q`, d.model.Input), "a number")
		}
		at := d.at
		f, err := d.float()
		if errors.Is(err, errRange) || err == nil && values.Uint8 != nil && (f < 0 || f > 255 || f != float32(uint8(f))) {
			d.at = at
			text, _ := d.number()
			return invalid("a value of input %q is %.40s: out of range for %s", d.model.Input, text, d.model.Datatype)
		}
		if err != nil {
			return err
		}
		if values.Uint8 != nil {
			values.Uint8[i] = uint8(f)
		} else {
			values.Float32[i] = f
		}
		if err := d.separate(i, n, level, "numbers"); err != nil {
			return err
		}
	}
	return nil
}

// separate reads what follows the i-th of n elements: a comma or the closing bracket.
func (d *decoder) separate(i, n, level int, elements string) error {
	switch c := d.peek(); {
	case c == ',' && i < n-1, c == ']' && i == n-1:
		d.at++
		return nil
	case c == ',':
		return d.wrongCount(level, n, elements, "more")
	case c == ']':
		return d.wrongCount(level, n, elements, fmt.Sprint(i+1))
	}
	return d.syntaxError("a comma or ]")
}

func (d *decoder) wrongCount(level, want int, elements, got string) error {
	return invalid(`the "data" of input %q has an array at level %d with %s %s: the shape requires %d`, d.model.Input, level+1, got, elements, want)
}

func (d *decoder) irregular(level int) error {
	kind := d.kind()
	if kind == "" {
		return d.syntaxError("a value")
	}
	return invalid(`the "data" of input %q has %s at level %d: expected all arrays of a level to be nested alike, as in the shape`, d.model.Input, kind, level+1)
}
