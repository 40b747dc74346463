// Avo generates the AVX2 code of internal/imaging. Run `make kernels` after a change.
//
// Each function computes the same numbers as the Go code that it replaces, which remains for other processors.
// TestKernels in internal/imaging compares both.
package main

import (
	. "github.com/mmcloughlin/avo/build"   //nolint:revive // avo's convention
	. "github.com/mmcloughlin/avo/operand" //nolint:revive // avo's convention
	"github.com/mmcloughlin/avo/reg"
)

func main() {
	ConstraintExpr("amd64")
	inverse()
	inverse4()
	inverse2()
	triangle("triangleAcrossAVX2", "h2v1_fancy_upsample for samples 1 to n-2 of a row", false)
	triangle("triangleBothAVX2", "h2v2_fancy_upsample for samples 1 to n-2 of two rows", true)
	webpUpsample()
	jpegColors()
	webpColors()
	across("acrossRGBAVX2", []string{"red", "green", "blue"})
	across("acrossAVX2", []string{"in"})
	sumRows()
	Generate()
}

// words returns a constant of 32 bytes: a word that is repeated.
func words(name string, v int) Mem {
	m := GLOBL(name, 8|16) // RODATA|NOPTR
	for i := range 16 {
		DATA(2*i, U16(uint16(v)))
	}
	return m
}

// doubles returns a constant of 32 bytes: a double word that is repeated.
func doubles(name string, v int) Mem {
	m := GLOBL(name, 8|16)
	for i := range 8 {
		DATA(4*i, U32(uint32(v)))
	}
	return m
}

func add(a, b Op, rest ...Op) reg.VecVirtual {
	out := YMM()
	VPADDD(b, a, out)
	for _, c := range rest {
		VPADDD(c, out, out)
	}
	return out
}

func sub(a, b Op) reg.VecVirtual {
	out := YMM()
	VPSUBD(b, a, out)
	return out
}

func mul(a, b Op) reg.VecVirtual {
	out := YMM()
	VPMULLD(b, a, out)
	return out
}

// inverse implements block.inverse: columns, transposition, rows, and transposition of the samples.
func inverse() {
	constants := map[string]Mem{}
	for _, c := range []struct {
		name string
		v    int
	}{
		{"c0298", 2446},
		{"c0390", 3196},
		{"c0541", 4433},
		{"c0765", 6270},
		{"m0899", -7373},
		{"c1175", 9633},
		{"c1501", 12299},
		{"c1847", 15137},
		{"c1961", 16069},
		{"c2053", 16819},
		{"m2562", -20995},
		{"c3072", 25172},
		{"columnRound", 1 << 10},
		{"rowRound", 1<<17 + 128<<18},
	} {
		constants[c.name] = doubles("inverse_"+c.name, c.v)
	}
	transposed := GLOBL("inverse_transposed", 8|16)
	for i := range 32 {
		DATA(i, U8(uint8(i%4*4+i/4%4)))
	}

	TEXT("inverseAVX2", 4, "func(b *[64]int32, dst *uint8, stride int)") // NOSPLIT
	Pragma("noescape")
	Doc("inverseAVX2 is block.inverse for blocks with any coefficients.")
	b := Load(Param("b"), GP64())
	dst := Load(Param("dst"), GP64())
	stride := Load(Param("stride"), GP64())

	c := loadRows(b, 0, 1, 2, 3, 4, 5, 6, 7)
	c = pass(c, constants, "columnRound", 11)
	c = transpose(c)
	c = pass(c, constants, "rowRound", 18)

	pack := func(c []reg.VecVirtual) reg.VecVirtual { // four samples of each row
		low, high := YMM(), YMM()
		VPACKSSDW(c[1], c[0], low)
		VPACKSSDW(c[3], c[2], high)
		VPACKUSWB(high, low, low)
		VPSHUFB(transposed, low, low)
		return low
	}
	left, right := pack(c[:4]), pack(c[4:])
	first, second := YMM(), YMM() // rows 0, 1, 4 and 5; rows 2, 3, 6 and 7
	VPUNPCKLDQ(right, left, first)
	VPUNPCKHDQ(right, left, second)
	store := func(v reg.VecVirtual) {
		VMOVQ(v.AsX(), Mem{Base: dst})
		VMOVHPD(v.AsX(), Mem{Base: dst, Index: stride, Scale: 1})
		LEAQ(Mem{Base: dst, Index: stride, Scale: 2}, dst)
	}
	store(first)
	store(second)
	VEXTRACTI128(Imm(1), first, first.AsX())
	VEXTRACTI128(Imm(1), second, second.AsX())
	store(first)
	store(second)
	VZEROUPPER()
	RET()
}

// pass transforms eight vectors of eight values each, in the notation of block.columns.
func pass(c [8]reg.VecVirtual, k map[string]Mem, round string, shift uint64) (out [8]reg.VecVirtual) {
	z := mul(add(c[2], c[6]), k["c0541"])
	p, q := add(z, mul(c[2], k["c0765"])), sub(z, mul(c[6], k["c1847"]))
	s, t := add(c[0], c[4]), sub(c[0], c[4])
	for _, v := range []reg.VecVirtual{s, t} {
		VPSLLD(Imm(13), v, v)
		VPADDD(k[round], v, v)
	}
	e := [4]reg.VecVirtual{add(s, p), add(t, q), sub(t, q), sub(s, p)}

	a, d := add(c[7], c[3]), add(c[5], c[1])
	z = mul(add(a, d), k["c1175"])
	a, d = sub(z, mul(a, k["c1961"])), sub(z, mul(d, k["c0390"]))
	u, v := mul(add(c[7], c[1]), k["m0899"]), mul(add(c[5], c[3]), k["m2562"])
	o := [4]reg.VecVirtual{
		add(mul(c[1], k["c1501"]), u, d), add(mul(c[3], k["c3072"]), v, a),
		add(mul(c[5], k["c2053"]), v, d), add(mul(c[7], k["c0298"]), u, a),
	}
	for i := range 4 {
		out[i], out[7-i] = add(e[i], o[i]), sub(e[i], o[i])
		VPSRAD(Imm(shift), out[i], out[i])
		VPSRAD(Imm(shift), out[7-i], out[7-i])
	}
	return out
}

// halves returns a constant of 32 bytes: a double word that is repeated in the lower half, and one in the upper half.
func halves(name string, low, high int) Mem {
	m := GLOBL(name, 8|16)
	for i := range 8 {
		v := low
		if i >= 4 {
			v = high
		}
		DATA(4*i, U32(uint32(v)))
	}
	return m
}

// loadRows loads some rows of a block of 8×8 double words, and clears all.
func loadRows(b reg.Register, rows ...int) (c [8]reg.VecVirtual) {
	for _, i := range rows {
		c[i] = YMM()
		VMOVDQU(Mem{Base: b, Disp: 32 * i}, c[i])
	}
	zero := YMM()
	VPXOR(zero, zero, zero)
	for i := range c {
		VMOVDQU(zero, Mem{Base: b, Disp: 32 * i})
	}
	return c
}

// inverse4 implements block.inverse4.
func inverse4() {
	columnRound, rowRound := doubles("inverse4_columnRound", 1<<11), doubles("inverse4_rowRound", 1<<18+128<<19)
	k := map[string]Mem{}
	for _, c := range []struct {
		name string
		v    int
	}{
		{"c1847", 15137},
		{"m0765", -6270},
		{"c2562", 20995},
		{"c0899", 7373},
		{"m0601", -4926},
		{"m0509", -4176},
		{"c1061", 8697},
		{"m2172", -17799},
		{"c1451", 11893},
		{"m0211", -1730},
	} {
		k[c.name] = doubles("inverse4_"+c.name, c.v)
	}
	k26 := halves("inverse4_26", 15137, -6270)
	k15, k37 := halves("inverse4_15", 20995, -4926), halves("inverse4_37", 7373, -4176)
	l15, l37 := halves("inverse4_15b", 8697, 11893), halves("inverse4_37b", -17799, -1730)
	transposed := GLOBL("inverse4_transposed", 8|16)
	for i := range 16 {
		DATA(i, U8(uint8(i%4*4+i/4)))
	}

	TEXT("inverse4AVX2", 4, "func(b *[64]int32, dst *uint8, stride int)")
	Pragma("noescape")
	Doc("inverse4AVX2 is block.inverse4, and clears b.")
	b := Load(Param("b"), GP64())
	dst := Load(Param("dst"), GP64())
	stride := Load(Param("stride"), GP64())
	c := loadRows(b, 0, 1, 2, 3, 5, 6, 7)
	s := c[0]
	VPSLLD(Imm(14), s, s)
	VPADDD(columnRound, s, s)
	p := add(mul(c[2], k["c1847"]), mul(c[6], k["m0765"]))
	e0, e1 := add(s, p), sub(s, p)
	o0 := add(mul(c[1], k["c2562"]), mul(c[3], k["c0899"]), mul(c[5], k["m0601"]), mul(c[7], k["m0509"]))
	o1 := add(mul(c[1], k["c1061"]), mul(c[3], k["m2172"]), mul(c[5], k["c1451"]), mul(c[7], k["m0211"]))
	w := [4]reg.VecVirtual{add(e0, o0), add(e1, o1), sub(e1, o1), sub(e0, o0)}
	for _, v := range w {
		VPSRAD(Imm(12), v, v)
	}

	unpack := func(op func(ops ...Op), a, b reg.VecVirtual) reg.VecVirtual {
		out := YMM()
		op(b, a, out)
		return out
	}
	t0, t1 := unpack(VPUNPCKLDQ, w[0], w[1]), unpack(VPUNPCKLDQ, w[2], w[3])
	t2, t3 := unpack(VPUNPCKHDQ, w[0], w[1]), unpack(VPUNPCKHDQ, w[2], w[3])
	// Columns 0 and 4, 1 and 5, 2 and 6, 3 and 7.
	u0, u1 := unpack(VPUNPCKLQDQ, t0, t1), unpack(VPUNPCKHQDQ, t0, t1)
	u2, u3 := unpack(VPUNPCKLQDQ, t2, t3), unpack(VPUNPCKHQDQ, t2, t3)
	folded := func(v reg.VecVirtual) reg.VecVirtual { // the sum of the halves
		high := XMM()
		VEXTRACTI128(Imm(1), v, high)
		VPADDD(high, v.AsX(), high)
		return high
	}
	small := func(f func(ops ...Op), a, b Op) reg.VecVirtual {
		out := XMM()
		f(b, a, out)
		return out
	}
	VPSLLD(Imm(14), u0, u0)
	VPADDD(rowRound, u0, u0)
	p = folded(mul(u2, k26))
	e0, e1 = small(VPADDD, u0.AsX(), p), small(VPSUBD, u0.AsX(), p)
	o0 = folded(add(mul(u1, k15), mul(u3, k37)))
	o1 = folded(add(mul(u1, l15), mul(u3, l37)))
	x := [4]reg.VecVirtual{small(VPADDD, e0, o0), small(VPADDD, e1, o1), small(VPSUBD, e1, o1), small(VPSUBD, e0, o0)}
	for _, v := range x {
		VPSRAD(Imm(19), v, v)
	}
	VPACKSSDW(x[1], x[0], x[0])
	VPACKSSDW(x[3], x[2], x[2])
	VPACKUSWB(x[2], x[0], x[0])
	VPSHUFB(transposed, x[0], x[0])
	VMOVD(x[0], Mem{Base: dst})
	VPEXTRD(Imm(1), x[0], Mem{Base: dst, Index: stride, Scale: 1})
	LEAQ(Mem{Base: dst, Index: stride, Scale: 2}, dst)
	VPEXTRD(Imm(2), x[0], Mem{Base: dst})
	VPEXTRD(Imm(3), x[0], Mem{Base: dst, Index: stride, Scale: 1})
	VZEROUPPER()
	RET()
}

// inverse2 implements block.inverse2.
func inverse2() {
	columnRound, rowRound := doubles("inverse2_columnRound", 1<<12), doubles("inverse2_rowRound", 1<<19+128<<20)
	factors := [8]int{0: 1 << 15, 1: 29692, 3: -10426, 5: 6967, 7: -5906}
	var k [8]Mem
	for _, i := range []int{1, 3, 5, 7} {
		k[i] = doubles("inverse2_"+string(rune('0'+i)), factors[i])
	}
	row := GLOBL("inverse2_row", 8|16)
	for i, v := range factors {
		DATA(4*i, U32(uint32(v)))
	}
	signs := GLOBL("inverse2_signs", 8|16)
	for i := range 4 {
		DATA(4*i, U32(uint32(1-2*(i%2))))
	}

	TEXT("inverse2AVX2", 4, "func(b *[64]int32, dst *uint8, stride int)")
	Pragma("noescape")
	Doc("inverse2AVX2 is block.inverse2, and clears b.")
	b := Load(Param("b"), GP64())
	dst := Load(Param("dst"), GP64())
	stride := Load(Param("stride"), GP64())
	c := loadRows(b, 0, 1, 3, 5, 7)
	s := c[0]
	VPSLLD(Imm(15), s, s)
	VPADDD(columnRound, s, s)
	o := add(mul(c[1], k[1]), mul(c[3], k[3]), mul(c[5], k[5]), mul(c[7], k[7]))
	top, bottom := add(s, o), sub(s, o)
	fold := func(v reg.VecVirtual) reg.VecVirtual { // even and odd coefficients, twice
		VPSRAD(Imm(13), v, v)
		VPMULLD(row, v, v)
		high := XMM()
		VEXTRACTI128(Imm(1), v, high)
		VPADDD(high, v.AsX(), high)
		return high
	}
	t, u := fold(top), fold(bottom)
	low, high := XMM(), XMM()
	VPUNPCKLQDQ(u, t, low)
	VPUNPCKHQDQ(u, t, high)
	VPADDD(high, low, low) // even and odd coefficients of both rows
	VPSHUFD(Imm(0xf5), low, high)
	VPSHUFD(Imm(0xa0), low, low)
	VPSIGND(signs, high, high)
	VPADDD(high, low, low)
	VPADDD(rowRound, low, low)
	VPSRAD(Imm(20), low, low)
	VPACKSSDW(low, low, low)
	VPACKUSWB(low, low, low)
	VPEXTRW(Imm(0), low, Mem{Base: dst})
	VPEXTRW(Imm(1), low, Mem{Base: dst, Index: stride, Scale: 1})
	VZEROUPPER()
	RET()
}

// transpose transposes a matrix of 8×8 double words.
func transpose(c [8]reg.VecVirtual) [8]reg.VecVirtual {
	pairs := func(c [8]reg.VecVirtual, distance int, low, high func(a, b, out reg.VecVirtual)) (out [8]reg.VecVirtual) {
		n := 0
		for i := range 8 {
			if i&distance != 0 {
				continue
			}
			out[n], out[n+1] = YMM(), YMM()
			low(c[i], c[i+distance], out[n])
			high(c[i], c[i+distance], out[n+1])
			n += 2
		}
		return out
	}
	c = pairs(c, 1, func(a, b, out reg.VecVirtual) { VPUNPCKLDQ(b, a, out) }, func(a, b, out reg.VecVirtual) { VPUNPCKHDQ(b, a, out) })
	// Pairs of rows 0 and 1, columns 0, 1, 4, 5 and 2, 3, 6, 7; then those of rows 2 and 3, and so on.
	c = pairs(c, 2, func(a, b, out reg.VecVirtual) { VPUNPCKLQDQ(b, a, out) }, func(a, b, out reg.VecVirtual) { VPUNPCKHQDQ(b, a, out) })
	// Rows 0 to 3 of columns 0 and 4, 1 and 5, 2 and 6, 3 and 7; then rows 4 to 7.
	var out [8]reg.VecVirtual
	for i := range 4 {
		out[i], out[i+4] = YMM(), YMM()
		VPERM2I128(Imm(0x20), c[i+4], c[i], out[i])
		VPERM2I128(Imm(0x31), c[i+4], c[i], out[i+4])
	}
	return out
}

// loop emits a loop over x, from 1 while sixteen samples and one more are in the row. body emits the code for the
// samples x to x+15.
func loop(x, n reg.GPVirtual, body func()) {
	Label("next")
	LEAQ(Mem{Base: x, Disp: 17}, n)
	end := Load(Param("n"), GP64())
	CMPQ(n, end)
	JGT(LabelRef("end"))
	body()
	ADDQ(Imm(16), x)
	JMP(LabelRef("next"))
	Label("end")
}

// widened loads sixteen bytes as words.
func widened(base reg.Register, x reg.GPVirtual, offset int) reg.VecVirtual {
	out := YMM()
	VPMOVZXBW(Mem{Base: base, Index: x, Scale: 1, Disp: offset}, out)
	return out
}

func addWords(a, b Op) reg.VecVirtual {
	out := YMM()
	VPADDW(b, a, out)
	return out
}

// tripled returns three times the words.
func tripled(a reg.VecVirtual) reg.VecVirtual { return addWords(addWords(a, a), a) }

// storePairs writes sixteen pairs of bytes from words.
func storePairs(even, odd reg.VecVirtual, out reg.Register, x reg.GPVirtual) {
	VPSLLW(Imm(8), odd, odd)
	VPOR(odd, even, even)
	VMOVDQU(even, Mem{Base: out, Index: x, Scale: 2})
}

func triangle(name, doc string, both bool) {
	bias, shift := [2]Mem{}, uint64(2)
	if both {
		bias, shift = [2]Mem{words("both_even", 8), words("both_odd", 7)}, 4
	} else {
		bias = [2]Mem{words("across_even", 1), words("across_odd", 2)}
	}
	signature := "func(out, near *uint8, n int) (end int)"
	if both {
		signature = "func(out, near, far *uint8, n int) (end int)"
	}
	TEXT(name, 4, signature)
	Pragma("noescape")
	Doc(name+" implements "+doc+", sixteen samples at", "a time. It returns the first sample that it leaves, at least 1.")
	out := Load(Param("out"), GP64())
	near := Load(Param("near"), GP64())
	var far reg.Register
	if both {
		far = Load(Param("far"), GP64())
	}
	x, n := GP64(), GP64()
	MOVQ(U32(1), x)
	sum := func(offset int) reg.VecVirtual {
		v := widened(near, x, offset)
		if both {
			v = addWords(tripled(v), widened(far, x, offset))
		}
		return v
	}
	loop(x, n, func() {
		middle := tripled(sum(0))
		even, odd := addWords(middle, sum(-1)), addWords(middle, sum(1))
		VPADDW(bias[0], even, even)
		VPADDW(bias[1], odd, odd)
		VPSRLW(Imm(shift), even, even)
		VPSRLW(Imm(shift), odd, odd)
		storePairs(even, odd, out, x)
	})
	Store(x, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

func webpUpsample() {
	eight := words("webp_eight", 8)
	TEXT("webpUpsampleAVX2", 4, "func(out, near, far *uint8, n int) (end int)")
	Pragma("noescape")
	Doc("webpUpsampleAVX2 implements webpUpsample for samples 1 to n-2, sixteen samples at a time. It returns the", "first sample that it leaves, at least 1.")
	out := Load(Param("out"), GP64())
	near := Load(Param("near"), GP64())
	far := Load(Param("far"), GP64())
	x, n := GP64(), GP64()
	MOVQ(U32(1), x)
	loop(x, n, func() {
		middle, other := widened(near, x, 0), widened(far, x, 0)
		inner := addWords(addWords(tripled(other), middle), eight)
		side := func(offset int) reg.VecVirtual {
			v := addWords(tripled(widened(near, x, offset)), widened(far, x, offset))
			VPADDW(inner, v, v)
			VPSRLW(Imm(3), v, v)
			VPADDW(middle, v, v)
			VPSRLW(Imm(1), v, v)
			return v
		}
		storePairs(side(-1), side(1), out, x)
	})
	Store(x, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// colors emits a function that converts rows, 16 pixels at a time. convert returns the words of the three channels,
// which are clamped to bytes.
func colors(name, doc string, convert func(luma, cb, cr reg.VecVirtual) [3]reg.VecVirtual) {
	TEXT(name, 4, "func(red, green, blue, luma, cb, cr *uint8, n int)")
	Pragma("noescape")
	Doc(name + " converts n pixels " + doc + ". n must be a multiple of 16.")
	var planes [6]reg.Register
	for i, p := range []string{"red", "green", "blue", "luma", "cb", "cr"} {
		planes[i] = Load(Param(p), GP64())
	}
	n := Load(Param("n"), GP64()).(reg.GPVirtual)
	x := GP64()
	XORQ(x, x)
	Label("next")
	CMPQ(x, n)
	JGE(LabelRef("end"))
	for i, v := range convert(widened(planes[3], x, 0), widened(planes[4], x, 0), widened(planes[5], x, 0)) {
		VPACKUSWB(v, v, v)
		VPERMQ(Imm(0x08), v, v)
		VMOVDQU(v.AsX(), Mem{Base: planes[i], Index: x, Scale: 1})
	}
	ADDQ(Imm(16), x)
	JMP(LabelRef("next"))
	Label("end")
	VZEROUPPER()
	RET()
}

func jpegColors() {
	// The factors are those of jpegColors, minus a multiple of 65536 that is added afterwards. Twice a value times a
	// factor, shifted by 16 bits, plus 1, shifted by 1 bit, is the product rounded.
	middle, one := words("jpeg_middle", 128), words("jpeg_one", 1)
	crToRed, cbToBlue := words("jpeg_cr_to_red", 91881-65536), words("jpeg_cb_to_blue", 116130-2*65536)
	toGreen := doubles("jpeg_to_green", (65536-46802)<<16|65536-22554)
	half := doubles("jpeg_half", 1<<15)
	colors("jpegColorsAVX2", "like jpegColors", func(luma, cb, cr reg.VecVirtual) [3]reg.VecVirtual {
		VPSUBW(middle, cb, cb)
		VPSUBW(middle, cr, cr)
		rounded := func(v reg.VecVirtual, factor Mem) reg.VecVirtual {
			out := addWords(v, v)
			VPMULHW(factor, out, out)
			VPADDW(one, out, out)
			VPSRAW(Imm(1), out, out)
			return out
		}
		red := rounded(cr, crToRed)
		VPADDW(cr, red, red)
		VPADDW(luma, red, red)
		blue := rounded(cb, cbToBlue)
		VPADDW(cb, blue, blue)
		VPADDW(cb, blue, blue)
		VPADDW(luma, blue, blue)
		low, green := YMM(), YMM()
		VPUNPCKLWD(cr, cb, low)
		VPUNPCKHWD(cr, cb, green)
		for _, v := range []reg.VecVirtual{low, green} {
			VPMADDWD(toGreen, v, v)
			VPADDD(half, v, v)
			VPSRAD(Imm(16), v, v)
		}
		VPACKSSDW(green, low, green)
		VPSUBW(cr, green, green)
		VPADDW(luma, green, green)
		return [3]reg.VecVirtual{red, green, blue}
	})
}

func webpColors() {
	toLuma := words("webp_luma", 19077)
	crToRed, crToGreen := words("webp_cr_to_red", 26149), words("webp_cr_to_green", 13320)
	cbToGreen, cbToBlue := words("webp_cb_to_green", 6419), words("webp_cb_to_blue", 33050)
	red0, green0, blue0 := words("webp_red", 14234), words("webp_green", 8708), words("webp_blue", 17685)
	colors("webpColorsAVX2", "like webpColors", func(luma, cb, cr reg.VecVirtual) [3]reg.VecVirtual {
		for _, v := range []reg.VecVirtual{luma, cb, cr} {
			VPSLLW(Imm(8), v, v)
		}
		VPMULHUW(toLuma, luma, luma)
		times := func(v reg.VecVirtual, factor Mem) reg.VecVirtual {
			out := YMM()
			VPMULHUW(factor, v, out)
			return out
		}
		red := times(cr, crToRed)
		VPADDW(luma, red, red)
		VPSUBW(red0, red, red)
		VPSRAW(Imm(6), red, red)
		green := addWords(luma, green0)
		VPSUBW(times(cb, cbToGreen), green, green)
		VPSUBW(times(cr, crToGreen), green, green)
		VPSRAW(Imm(6), green, green)
		blue := times(cb, cbToBlue)
		VPADDW(luma, blue, blue)
		VPSUBUSW(blue0, blue, blue) // the sum exceeds the range of signed words
		VPSRLW(Imm(6), blue, blue)
		return [3]reg.VecVirtual{red, green, blue}
	})
}

// Sums of samples times coefficients have 22 fraction bits, and half is added to round them.
const (
	coefficientBits = 22
	half            = 1 << (coefficientBits - 1)
)

// across emits a function that computes the results of rows of one or three planes.
func across(name string, planes []string) {
	signature := "func(out *uint8, step int, "
	for i, p := range planes {
		if i > 0 {
			signature += ", "
		}
		signature += p
	}
	signature += " *uint8, first *int, coef *int32, chunks, count int)"
	TEXT(name, 4, signature)
	Pragma("noescape")
	Doc(name+" implements taps.apply. Each result has 8·chunks coefficients, and as many samples from its first", "one on must be readable.")
	out, step := Load(Param("out"), GP64()), Load(Param("step"), GP64())
	var in []reg.Register
	for _, p := range planes {
		in = append(in, Load(Param(p), GP64()))
	}
	first, coef := Load(Param("first"), GP64()), Load(Param("coef"), GP64())
	chunks, count := Load(Param("chunks"), GP64()), Load(Param("count"), GP64())
	rounding := XMM()
	bits := GP32()
	MOVL(U32(half), bits)
	VMOVD(bits, rounding)
	VPBROADCASTD(rounding, rounding)

	Label("result")
	x, left := GP64(), GP64()
	MOVQ(Mem{Base: first}, x)
	MOVQ(chunks, left)
	sums := make([]reg.VecVirtual, len(in))
	for i := range sums {
		sums[i] = YMM()
		VPXOR(sums[i], sums[i], sums[i])
	}
	Label("chunk")
	k := YMM()
	VMOVDQU(Mem{Base: coef}, k)
	for i, p := range in {
		v := YMM()
		VPMOVZXBD(Mem{Base: p, Index: x, Scale: 1}, v)
		VPMULLD(k, v, v)
		VPADDD(v, sums[i], sums[i])
	}
	ADDQ(Imm(32), coef)
	ADDQ(Imm(8), x)
	DECQ(left)
	JNE(LabelRef("chunk"))

	// The sum of each plane's eight sums.
	total := sums[0]
	if len(sums) == 3 {
		VPHADDD(sums[1], sums[0], sums[0])
		VPHADDD(sums[2], sums[2], sums[2])
		VPHADDD(sums[2], sums[0], total)
	} else {
		VPHADDD(total, total, total)
		VPHADDD(total, total, total)
	}
	upper := XMM()
	VEXTRACTI128(Imm(1), total, upper)
	VPADDD(upper, total.AsX(), upper)
	VPADDD(rounding, upper, upper)
	VPSRAD(Imm(coefficientBits), upper, upper)
	VPACKSSDW(upper, upper, upper)
	VPACKUSWB(upper, upper, upper)
	if len(sums) == 3 {
		VPEXTRW(Imm(0), upper, Mem{Base: out})
		VPEXTRB(Imm(2), upper, Mem{Base: out, Disp: 2})
	} else {
		VPEXTRB(Imm(0), upper, Mem{Base: out})
	}
	ADDQ(step, out)
	ADDQ(Imm(8), first)
	DECQ(count)
	JNE(LabelRef("result"))
	VZEROUPPER()
	RET()
}

func sumRows() {
	TEXT("sumRowsAVX2", 4, "func(out, rows *uint8, n int, more *uint8, nMore, length int, coef *int32, columns int)")
	Pragma("noescape")
	Doc("sumRowsAVX2 implements sumRows for the first columns, a multiple of 8, from n rows and then nMore rows.")
	out, rows, more := Load(Param("out"), GP64()), Load(Param("rows"), GP64()), Load(Param("more"), GP64())
	n, nMore := Load(Param("n"), GP64()), Load(Param("nMore"), GP64())
	length, coef := Load(Param("length"), GP64()), Load(Param("coef"), GP64())
	columns := Load(Param("columns"), GP64())
	rounding := YMM()
	bits := GP32()
	MOVL(U32(half), bits)
	VMOVD(bits, rounding.AsX())
	VPBROADCASTD(rounding.AsX(), rounding)

	// emit emits the code for blocks of 8 columns each, while there are enough.
	emit := func(label string, blocks int) {
		Label(label)
		CMPQ(columns, Imm(uint64(8*blocks)))
		JLT(LabelRef(label + "_end"))
		sums := make([]reg.VecVirtual, blocks)
		for i := range sums {
			sums[i] = YMM()
			VMOVDQA(rounding, sums[i])
		}
		k := GP64()
		MOVQ(coef, k)
		for _, part := range []struct {
			name string
			base reg.Register
			n    reg.Register
		}{{"first", rows, n}, {"more", more, nMore}} {
			name := label + "_" + part.name
			at, left := GP64(), GP64()
			MOVQ(part.base, at)
			MOVQ(part.n, left)
			TESTQ(left, left)
			JE(LabelRef(name + "_end"))
			Label(name)
			factor := YMM()
			VPBROADCASTD(Mem{Base: k}, factor)
			for i := range sums {
				v := YMM()
				VPMOVZXBD(Mem{Base: at, Disp: 8 * i}, v)
				VPMULLD(factor, v, v)
				VPADDD(v, sums[i], sums[i])
			}
			ADDQ(length, at)
			ADDQ(Imm(4), k)
			DECQ(left)
			JNE(LabelRef(name))
			Label(name + "_end")
		}
		for i, sum := range sums {
			VPSRAD(Imm(coefficientBits), sum, sum)
			upper := XMM()
			VEXTRACTI128(Imm(1), sum, upper)
			VPACKSSDW(upper, sum.AsX(), upper)
			VPACKUSWB(upper, upper, upper)
			VMOVQ(upper, Mem{Base: out, Disp: 8 * i})
		}
		for _, p := range []reg.Register{out, rows, more} {
			ADDQ(Imm(uint64(8*blocks)), p)
		}
		SUBQ(Imm(uint64(8*blocks)), columns)
		JMP(LabelRef(label))
		Label(label + "_end")
	}
	emit("four", 4)
	emit("one", 1)
	VZEROUPPER()
	RET()
}
