/* What a sparse decode kernel could gain: y = W x for one x, with W dense, and
 * with W as bitmasks and the numbers that are not zero, which AVX-512 expands on
 * the way (VPEXPANDW, VPEXPANDB). In float16-sized numbers (BF16) and in 8 bits
 * with 8-bit activations, beside dense 4 bits. W is larger than the caches.
 *
 *   gcc -O3 -march=native -o /tmp/sparse_gemv scripts/bench/sparse_gemv.c
 *   /tmp/sparse_gemv 0.5        the share of weights that are kept
 *
 * Prints medians of CPU time of 15 turns on one thread.
 */
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROWS = 16384, COLS = 8192, GROUP = 64, TURNS = 15, KERNELS = 5 };

static uint16_t *w16, *kept16;
static uint8_t *w8, *kept8, *x8;
static uint64_t *masks;
static float *x, *scales, y[KERNELS][ROWS];

static __m512 widen(__m256i v) {
	return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}

static void add16(__m512 *sums, __m512i v, const float *x) {
	sums[0] = _mm512_fmadd_ps(widen(_mm512_castsi512_si256(v)), _mm512_loadu_ps(x), sums[0]);
	sums[1] = _mm512_fmadd_ps(widen(_mm512_extracti64x4_epi64(v, 1)), _mm512_loadu_ps(x + 16), sums[1]);
}

static float total(const __m512 *s) {
	return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3])));
}

static void dense16(float *y) {
	for (size_t r = 0; r < ROWS; r++) {
		__m512 s[4] = {0};
		for (int i = 0; i < COLS; i += 64) {
			add16(s, _mm512_loadu_si512(w16 + r * COLS + i), x + i);
			add16(s + 2, _mm512_loadu_si512(w16 + r * COLS + i + 32), x + i + 32);
		}
		y[r] = total(s);
	}
}

static void sparse16(float *y) {
	const uint16_t *q = kept16;
	for (size_t r = 0; r < ROWS; r++) {
		__m512 s[4] = {0};
		for (int i = 0; i < COLS; i += 64) {
			uint32_t m = masks[(r * COLS + i) / 64], m2 = masks[(r * COLS + i) / 64] >> 32;
			int n = __builtin_popcount(m);
			__m512i v = _mm512_maskz_expand_epi16(m, _mm512_loadu_si512(q));
			__m512i v2 = _mm512_maskz_expand_epi16(m2, _mm512_loadu_si512(q + n));
			q += n + __builtin_popcount(m2);
			add16(s, v, x + i);
			add16(s + 2, v2, x + i + 32);
		}
		y[r] = total(s);
	}
}

static __m512 add8(__m512 sum, __m512i v, const uint8_t *x, float scale) {
	__m512i dot = _mm512_dpbusd_epi32(_mm512_setzero_si512(), _mm512_loadu_si512(x), v);
	return _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_set1_ps(scale), sum);
}

static void dense8(float *y) {
	for (size_t r = 0; r < ROWS; r++) {
		__m512 a = _mm512_setzero_ps();
		for (int i = 0; i < COLS; i += 64)
			a = add8(a, _mm512_loadu_si512(w8 + r * COLS + i), x8 + i, scales[(r * COLS + i) / GROUP]);
		y[r] = _mm512_reduce_add_ps(a);
	}
}

static void sparse8(float *y) {
	const uint8_t *q = kept8;
	for (size_t r = 0; r < ROWS; r++) {
		__m512 a = _mm512_setzero_ps();
		for (int i = 0; i < COLS; i += 64) {
			uint64_t m = masks[(r * COLS + i) / 64];
			a = add8(a, _mm512_maskz_expand_epi8(m, _mm512_loadu_si512(q)), x8 + i, scales[(r * COLS + i) / GROUP]);
			q += __builtin_popcountll(m);
		}
		y[r] = _mm512_reduce_add_ps(a);
	}
}

static void dense4(float *y) {
	__m512i low = _mm512_set1_epi8(15);
	for (size_t r = 0; r < ROWS; r++) {
		__m512 a = _mm512_setzero_ps(), b = a;
		for (int i = 0; i < COLS; i += 128) {
			__m512i v = _mm512_loadu_si512(w8 + (r * COLS + i) / 2);
			const float *s = scales + (r * COLS + i) / GROUP;
			a = add8(a, _mm512_and_si512(v, low), x8 + i, s[0]);
			b = add8(b, _mm512_and_si512(_mm512_srli_epi16(v, 4), low), x8 + i + 64, s[1]);
		}
		y[r] = _mm512_reduce_add_ps(_mm512_add_ps(a, b));
	}
}

static double seconds(void) {
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return t.tv_sec + 1e-9 * t.tv_nsec;
}

static int ascending(const void *a, const void *b) {
	double d = *(const double *)a - *(const double *)b;
	return (d > 0) - (d < 0);
}

int main(int argc, char **argv) {
	static const struct {
		const char *name;
		void (*run)(float *);
		double bits, values; /* a weight; of them those that only kept ones take */
	} kernels[KERNELS] = {
		{"BF16", dense16, 16, 0}, {"BF16, bitmasks", sparse16, 1, 16},
		{"8 bits", dense8, 8.5, 0}, {"8 bits, bitmasks", sparse8, 1.5, 8}, {"4 bits", dense4, 4.5, 0},
	};
	double share = argc > 1 ? atof(argv[1]) : 0.5;
	size_t n = (size_t)ROWS * COLS, kept = 0;
	w16 = malloc(2 * n), kept16 = malloc(2 * n + 64), w8 = malloc(n), kept8 = malloc(n + 64);
	masks = calloc(n / 64, 8), x = malloc(4 * COLS), x8 = malloc(COLS), scales = malloc(4 * n / GROUP);
	srand(1);
	for (size_t i = 0; i < n; i++) {
		float v = rand() < share * RAND_MAX ? 0.5f + (float)rand() / RAND_MAX : 0;
		uint32_t bits;
		memcpy(&bits, &v, 4);
		w16[i] = bits >> 16, w8[i] = v * 64;
		if (v != 0) {
			masks[i / 64] |= 1ull << i % 64;
			kept16[kept] = w16[i], kept8[kept++] = w8[i];
		}
	}
	for (int i = 0; i < COLS; i++)
		x[i] = (float)rand() / RAND_MAX - 0.5f, x8[i] = rand() % 256;
	for (size_t i = 0; i < n / GROUP; i++)
		scales[i] = 0.01f;
	double times[KERNELS][TURNS];
	for (int t = 0; t < TURNS; t++)
		for (int k = 0; k < KERNELS; k++) {
			double start = seconds();
			kernels[k].run(y[k]);
			times[k][t] = seconds() - start;
		}
	if (memcmp(y[0], y[1], sizeof y[0]) || memcmp(y[2], y[3], sizeof y[2])) {
		fprintf(stderr, "a sparse kernel gives another result than the dense one\n");
		return 1;
	}
	for (int k = 0; k < KERNELS; k++) {
		qsort(times[k], TURNS, sizeof(double), ascending);
		double bits = kernels[k].bits + share * kernels[k].values;
		printf("%-18s %6.2f bits a weight %7.2f ms %6.1f GB/s\n", kernels[k].name, bits, 1e3 * times[k][TURNS / 2],
		       n * bits / 8e9 / times[k][TURNS / 2]);
	}
}
