package oip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"
)

// decoder reads one request.
type decoder struct {
	reader
	shape   Shape
	request *Request
	binary  []byte // what follows the JSON
	split   bool   // the client said where the JSON ends

	tensor       tensor     // the input
	binaryOutput bool       // of outputs that do not say themselves
	formOf       [2]outForm // of request.Outputs
}

// outForm is how an output wants its values.
type outForm int

const (
	asRequest outForm = iota // as the request has it for all
	asJSON
	asBinary
)

// once reports a member that an object has twice: one of the two would have to be
// ignored. Seen has a bit for each member met, bit the one of this.
func once(seen *uint, bit uint, name string) error {
	if *seen&(1<<bit) != 0 {
		return refuse("%s is given twice", name)
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
				return d.list(name, func(i int) error {
					inputs++
					return d.input(i)
				})
			})
		case "outputs":
			return d.member(&seen, 3, `"outputs"`, func(name string) error { return d.list(name, d.output) })
		}
		return d.skip()
	})
	if err != nil {
		return err
	}
	if d.peek(); d.at < len(d.data) {
		return d.broken("nothing behind the request")
	}
	if inputs == 0 {
		return refuse(`"inputs" is missing: want the tensor %q, %s, %s`, InputName, Datatype, d.shape)
	}
	d.chooseOutputs()
	return d.readBinary()
}

// member reads the value of a member, which an object has once, unless it is null.
func (d *decoder) member(seen *uint, bit uint, name string, read func(name string) error) error {
	if err := once(seen, bit, name); err != nil {
		return err
	}
	if null, err := d.null(); null || err != nil {
		return err
	}
	return read(name)
}

// parameters reads those of the whole request.
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
				if us < 0 {
					return refuse("%s is %d: want microseconds, 0 for no limit", name, us)
				}
				d.request.Timeout = time.Duration(min(us, math.MaxInt64/int64(time.Microsecond))) * time.Microsecond
				return nil
			})
		}
		return d.skip()
	})
}

// tensor is what has been read of the input.
type tensor struct {
	name, datatype []byte
	dims           [4]int64
	rank           int   // 0 as long as there is no shape
	size           int64 // in binary form
	hasSize        bool
	dataAt         int // offset of data that is still to be read, 0 when there is none
	hasData        bool
}

// input reads the i-th input. Values are read as they come when name, datatype
// and shape stand before them, as they do in the requests of all common clients;
// otherwise they are passed over, and read when the rest is known.
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

// check holds the input against what the model takes, and sets the request's
// number of pictures.
func (d *decoder) check(t *tensor, i int) error {
	switch {
	case t.name == nil:
		return refuse(`inputs[%d] has no "name": want %q`, i, InputName)
	case string(t.name) != InputName:
		return refuse("there is no input %.80q: the model has one, %q, %s, %s", t.name, InputName, Datatype, d.shape)
	case i > 0:
		return refuse("input %q is given twice", InputName)
	case t.datatype == nil:
		return refuse(`input %q has no "datatype": want %q`, InputName, Datatype)
	case string(t.datatype) != Datatype:
		return refuse("input %q has the datatype %.40q: want %q", InputName, t.datatype, Datatype)
	case t.rank == 0:
		return refuse(`input %q has no "shape": want %s`, InputName, d.shape)
	}
	n := t.dims[0]
	if t.rank != len(t.dims) || t.dims != [4]int64{n, int64(d.shape.Channels), int64(d.shape.Size), int64(d.shape.Size)} {
		return refuse("input %q has the shape %s: want %s", InputName, t.shapeText(), d.shape)
	}
	if n < 1 || n > int64(d.shape.MaxBatch) {
		return refuse("input %q has %d pictures: want 1 to %d a request", InputName, n, d.shape.MaxBatch)
	}
	d.request.Batch = int(n)
	return nil
}

// shapeText writes the shape for messages; of a long one, the beginning.
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
	err := d.list(name, func(i int) error {
		n, err := d.integer("a dimension of the shape")
		if err != nil {
			return err
		}
		if n < 0 {
			return refuse("dimension %d of the shape is %d: want %s", i, n, d.shape)
		}
		if i < len(t.dims) {
			t.dims[i] = n
		}
		t.rank++
		return nil
	})
	if err == nil && t.rank == 0 {
		return refuse("%s is empty: want %s", name, d.shape)
	}
	return err
}

func (d *decoder) inputParameters(t *tensor, name string) error {
	var seen uint
	return d.object(name, func(key []byte) error {
		switch string(key) {
		case "binary_data_size":
			return d.member(&seen, 0, `the parameter "binary_data_size"`, func(name string) (err error) {
				t.size, err = d.integer(name)
				t.hasSize = true
				return err
			})
		case "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset":
			return d.unsupported(key, `send the values as "data" or as binary data`)
		}
		return d.skip()
	})
}

// unsupported refuses a parameter of an extension that is not offered, unless it
// is null.
func (d *decoder) unsupported(key []byte, instead string) error {
	if null, err := d.null(); null || err != nil {
		return err
	}
	return refuse("the parameter %q is not supported: %s", key, instead)
}

// output reads the i-th output that the client asks for.
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
					switch string(key) {
					case "binary_data":
						return d.member(&seenParameters, 0, `the parameter "binary_data"`, func(what string) error {
							binary, err := d.boolean(what)
							form = asJSON
							if binary {
								form = asBinary
							}
							return err
						})
					case "classification":
						return d.unsupported(key, "leave it out; the probability is 1/(1+e^-logit)")
					case "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset":
						return d.unsupported(key, "leave it out to get the values in the answer")
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
	o := Output{Name: LogitName}
	switch string(name) {
	case LogitName:
	case EmbeddingName:
		o.Name = EmbeddingName
	case "":
		return refuse(`outputs[%d] has no "name": the model has %q and %q`, i, LogitName, EmbeddingName)
	default:
		return refuse("there is no output %.80q: the model has %q and %q", name, LogitName, EmbeddingName)
	}
	if d.request.HasOutput(o.Name) {
		return refuse("output %q is asked for twice", o.Name)
	}
	d.formOf[len(d.request.Outputs)] = form
	d.request.Outputs = append(d.request.Outputs, o)
	return nil
}

// chooseOutputs takes all outputs when none is named, and settles their forms.
func (d *decoder) chooseOutputs() {
	if len(d.request.Outputs) == 0 {
		d.request.Outputs = append(d.request.Outputs, Output{Name: LogitName}, Output{Name: EmbeddingName})
	}
	for i := range d.request.Outputs {
		d.request.Outputs[i].Binary = d.formOf[i] == asBinary || d.formOf[i] == asRequest && d.binaryOutput
	}
}

// readBinary takes the values of the input from behind the JSON, unless they were
// in it.
func (d *decoder) readBinary() error {
	t := &d.tensor
	count := d.request.Batch * d.shape.picture()
	want := count * valueSize
	switch {
	case t.hasData && t.hasSize:
		return refuse(`input %q has both "data" and the parameter "binary_data_size": want one of them`, InputName)
	case t.hasData && len(d.binary) > 0:
		return refuse(`%d bytes are left over behind the JSON: input %q has its "data" in it`, len(d.binary), InputName)
	case t.hasData:
		return nil
	case !t.hasSize && d.split:
		return refuse(`input %q has no "data", and no parameter "binary_data_size" that tells how many of the %d bytes behind the JSON are its`, InputName, len(d.binary))
	case !t.hasSize:
		return refuse(`input %q has no "data": want %d numbers`, InputName, count)
	case !d.split:
		return refuse(`input %q has the parameter "binary_data_size": want the header %s as well, to tell where the JSON ends`, InputName, LengthHeader)
	case t.size != int64(want):
		return refuse("the parameter \"binary_data_size\" is %d: want %d, 4 bytes for each of the %d values", t.size, want, count)
	case len(d.binary) < want:
		return refuse("the parameter \"binary_data_size\" is %d, but only %d bytes follow the JSON", t.size, len(d.binary))
	case len(d.binary) > want:
		return refuse("%d bytes are left over behind the %d of input %q", len(d.binary)-want, want, InputName)
	}
	d.request.grow(count)
	if i := copyFloats(d.request.Input, d.binary); i >= 0 {
		return notFinite(i)
	}
	return nil
}

// copyFloats fills values from their little-endian form, and returns the place of
// the first that is not finite, -1 when all are.
func copyFloats(values []float32, raw []byte) int {
	const exponent = 0x7f800000 // all ones in infinities and in what is not a number
	for i := range values {
		bits := binary.LittleEndian.Uint32(raw[i*valueSize:])
		if bits&exponent == exponent {
			return i
		}
		values[i] = math.Float32frombits(bits)
	}
	return -1
}

// readData reads the values of the input from the JSON. They may be flat, or
// nested as the shape has it, wholly or in its first dimensions: a list of
// pictures, each with its values in one list, agrees with it as well.
func (d *decoder) readData() error {
	count := d.request.Batch * d.shape.picture()
	levels := d.levels()
	switch {
	case levels == 0:
		return d.wrongKind(`the "data" of an input`, "a list of numbers")
	case levels > 4:
		return refuse(`the "data" of input %q is nested deeper than its 4 dimensions`, InputName)
	case len(d.data)-d.at < 2*count:
		// A digit and a comma each; so no shape makes us set memory aside that the
		// body does not fill.
		return refuse(`the JSON ends before the %d values that the shape of input %q wants`, count, InputName)
	}
	d.request.grow(count)
	dims := []int{d.request.Batch, d.shape.Channels, d.shape.Size, d.shape.Size}
	return d.values(d.request.Input, dims[:levels-1], 0)
}

// levels counts the brackets that open the data.
func (d *decoder) levels() int {
	ahead := d.reader
	n := 0
	for ; ahead.peek() == '[' && n <= 4; n++ {
		ahead.at++
	}
	return n
}

// values fills values from the list that comes next: of as many lists as the
// first of dims says, or of numbers when there are no dims left. Level is the depth.
func (d *decoder) values(values []float32, dims []int, level int) error {
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
			return d.wrongCount(level, n, "lists", fmt.Sprint(i))
		}
		if err := d.values(values[i*len(values)/n:(i+1)*len(values)/n], dims[1:], level+1); err != nil {
			return err
		}
		if err := d.separate(i, n, level, "lists"); err != nil {
			return err
		}
	}
	return nil
}

// numbers fills values from the list of numbers that comes next.
func (d *decoder) numbers(values []float32, level int) error {
	d.at++
	for i := range values {
		c := d.peek()
		if c == ']' {
			return d.wrongCount(level, len(values), "numbers", fmt.Sprint(i))
		}
		if c == '[' {
			return d.irregular(level)
		}
		if c != '-' && (c < '0' || c > '9') {
			return d.wrongKind(fmt.Sprintf(`a value in the "data" of input %q`, InputName), "a number")
		}
		f, err := d.float()
		if errors.Is(err, errRange) {
			text, _ := d.number()
			return refuse("a value of input %q is %.40s: that is more than %s can hold", InputName, text, Datatype)
		}
		if err != nil {
			return err
		}
		values[i] = f
		if err := d.separate(i, len(values), level, "numbers"); err != nil {
			return err
		}
	}
	return nil
}

// separate reads what follows the i-th of n elements: a comma, or the end.
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
	return d.broken("a comma or ]")
}

func (d *decoder) wrongCount(level, want int, elements, got string) error {
	return refuse(`the "data" of input %q has a list at level %d with %s %s: the shape wants %d`, InputName, level+1, got, elements, want)
}

func (d *decoder) irregular(level int) error {
	kind := d.kind()
	if kind == "" {
		return d.broken("a value")
	}
	return refuse(`the "data" of input %q has %s at level %d: want all lists of a level nested alike, as the shape has it`, InputName, kind, level+1)
}
