//go:build !amd64

package imaging

// These functions are never called, because avx2 is false.

func inverseAVX2(*[64]int32, *uint8, int)           { panic("no AVX2") }
func inverse4AVX2(*[64]int32, *uint8, int)          { panic("no AVX2") }
func inverse2AVX2(*[64]int32, *uint8, int)          { panic("no AVX2") }
func triangleAcrossAVX2(_, _ *uint8, _ int) int     { panic("no AVX2") }
func triangleBothAVX2(_, _, _ *uint8, _ int) int    { panic("no AVX2") }
func webpUpsampleAVX2(_, _, _ *uint8, _ int) int    { panic("no AVX2") }
func jpegColorsAVX2(_, _, _, _, _, _ *uint8, _ int) { panic("no AVX2") }
func webpColorsAVX2(_, _, _, _, _, _ *uint8, _ int) { panic("no AVX2") }
func acrossRGBAVX2(*uint8, int, *uint8, *uint8, *uint8, *int, *int32, int, int) {
	panic("no AVX2")
}
func acrossAVX2(*uint8, int, *uint8, *int, *int32, int, int)              { panic("no AVX2") }
func sumRowsAVX2(_, _ *uint8, _ int, _ *uint8, _, _ int, _ *int32, _ int) { panic("no AVX2") }
