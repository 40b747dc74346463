package imaging

import "golang.org/x/sys/cpu"

// avx2 selects the functions in kernels_amd64.s, which tools/avo generates. They give the same results as the code in
// Go, which other processors use. Tests change it.
var avx2 = cpu.X86.HasAVX2
