//go:build !noasm && !purego

package level

import "golang.org/x/sys/cpu"

// native are the levels in assembly that this machine can run.
func native() []string {
	x := &cpu.X86
	switch {
	case !x.HasAVX2 || !x.HasFMA || !x.HasF16C:
		return nil
	case !x.HasAVX512F || !x.HasAVX512BW || !x.HasAVX512DQ || !x.HasAVX512VL:
		return []string{AVX2}
	}
	return []string{AVX2, AVX512}
}
