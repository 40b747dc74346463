package imaging

import "math"

// axes returns how the columns and the rows of an image of the given size, after it has been turned, map to those of
// the result.
func (p *Preprocessing) axes(width, height int) (columns, rows axis) {
	columns, rows = axis{source: width}, axis{source: height}
	columns.resized, rows.resized = p.resized(width, height)
	columns.crop(p.Width, p.Crop)
	rows.crop(p.Height, p.Crop)
	return columns, rows
}

// resized returns the size to which an image is resized before it's cropped or padded.
func (p *Preprocessing) resized(width, height int) (w, h int) {
	switch p.Fit {
	case ShortestEdge:
		if p.ResizeHeight == 0 || p.ResizeHeight == p.Resize {
			// As in torchvision and transformers, the longer side is rounded down.
			if width <= height {
				return p.Resize, p.Resize * height / width
			}
			return p.Resize * width / height, p.Resize
		}
		ratio := min(float64(width)/float64(p.Resize), float64(height)/float64(p.ResizeHeight))
		return keepRatio(width, height, ratio)
	case Contain:
		ratio := max(float64(width)/float64(p.Width), float64(height)/float64(p.Height))
		return keepRatio(width, height, ratio)
	}
	if p.Resize != 0 {
		if p.ResizeHeight == 0 {
			return p.Resize, p.Resize
		}
		return p.Resize, p.ResizeHeight
	}
	return p.Width, p.Height
}

// keepRatio divides a size by ratio, like ResizeKeepRatio in timm.
func keepRatio(width, height int, ratio float64) (w, h int) {
	return max(int(math.RoundToEven(float64(width)/ratio)), 1), max(int(math.RoundToEven(float64(height)/ratio)), 1)
}

// crop selects size results from the middle. If there are fewer, they are placed in the middle of the result, with
// the smaller margin before them, as torchvision and timm do.
func (a *axis) crop(size int, rounding Rounding) {
	margin := a.resized - size
	if margin < 0 {
		a.count, a.place = a.resized, -margin/2
		return
	}
	a.count, a.first = size, margin/2
	if rounding == HalfEven && margin%4 == 3 { // half of it rounded to even
		a.first++
	}
}

// verticalFirst reports whether the height is resized before the width.
func (p *Preprocessing) verticalFirst(columns, rows axis) bool {
	reduced := rows.source - rows.resized
	return p.Passes == Pillow13Passes && reduced > 0 && reduced > 2*(columns.source-columns.resized)
}

// divisor returns the number, 1, 2, 4 or 8, by which an image's size is divided when it's decoded: the largest one at
// which the image still covers the size to which it's resized. It follows Pillow's JpegImageFile.draft.
func (p *Plan) divisor(info *Info) int {
	if p.p.JPEG != DCTScaledJPEG || info.Format != formatJPEG {
		return 1
	}
	width, height := info.Width, info.Height
	if p.p.Orientation == ApplyOrientation && info.Orientation > 4 {
		width, height = height, width
	}
	w, h := p.p.resized(width, height)
	for divisor := 8; divisor > 1; divisor /= 2 {
		if width/w >= divisor && height/h >= divisor {
			return divisor
		}
	}
	return 1
}

// memory returns an upper bound on the number of bytes that resizing an image needs, beyond those that a Decoder keeps.
func (p *Plan) memory(info *Info) int64 {
	divisor := p.divisor(info)
	width, height := (info.Width+divisor-1)/divisor, (info.Height+divisor-1)/divisor
	turned := p.p.Orientation == ApplyOrientation && info.Orientation > 4
	if turned {
		width, height = height, width
	}
	columns, rows := p.p.axes(width, height)
	across, down := columns, rows
	if turned {
		across, down = rows, columns
	}
	length := across.count // of a row that is added up
	if turned != p.p.verticalFirst(columns, rows) {
		length = across.samples(&p.p)
	}
	length *= p.p.Channels()
	bytes := across.memory(&p.p) + down.memory(&p.p)
	bytes += int64(p.p.Channels())*int64(across.count) + int64(info.Width) // line and luma
	bytes += (8 + 1) * int64(length)                                       // sums and summed
	if ring := int64(length) * int64(down.taps(&p.p)); p.p.fraction() > 0 {
		bytes += 4*ring + 4*int64(length)
	} else {
		bytes += ring
	}
	return bytes + bytes/8 + 4<<10
}

// taps returns an upper bound on taps.stride for an axis, if it isn't aligned.
func (a *axis) taps(p *Preprocessing) int {
	switch {
	case a.source == a.resized || p.Filter == Nearest:
		return 1
	case p.Antialias:
		scale := max(float64(a.source)/float64(a.resized), 1)
		return min(int(2*support(p.Filter)*scale)+2, a.source)
	}
	return openCVTaps(p.Filter)
}

// samples returns an upper bound on the number of samples between taps.base and taps.end for an axis.
func (a *axis) samples(p *Preprocessing) int {
	scale := float64(a.source) / float64(a.resized)
	return min(int(float64(a.count)*scale)+a.taps(p)+2, a.source)
}

// memory returns the number of bytes of the axis's taps.
func (a *axis) memory(p *Preprocessing) int64 {
	stride := int64(a.taps(p) + 7)
	return int64(a.count)*(8+8+4*stride) + 8*stride
}
