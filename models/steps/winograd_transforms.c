/* Winograd's transforms of inputs and outputs in one pass each; see winograd.py for the algorithm.

   Feature maps have shape (height, width, channels), points (36, tiles, channels), both dense. A block of channels of a
   tile is transformed within a buffer of the first-level cache. */

#define SIDE (TILE + 2)
#define BLOCK 64
/* The compiler is given TILE, NEAR and FAR: the finite points other than 0 are +-NEAR and +-FAR. */
#define PRODUCT (NEAR * NEAR * FAR * FAR)
#define SUM (NEAR * NEAR + FAR * FAR)

static long least(long a, long b) { return a < b ? a : b; }

/* B^T d: six vectors of `count` channels to six others. */
static inline void input_transform(const float *const *d, float *const *out, long count)
{
    const float *restrict d0 = d[0], *restrict d1 = d[1], *restrict d2 = d[2];
    const float *restrict d3 = d[3], *restrict d4 = d[4], *restrict d5 = d[5];
    float *restrict o0 = out[0], *restrict o1 = out[1], *restrict o2 = out[2];
    float *restrict o3 = out[3], *restrict o4 = out[4], *restrict o5 = out[5];
    for (long c = 0; c < count; c++) {
        float even = d4[c] - FAR * FAR * d2[c], odd = NEAR * (d3[c] - FAR * FAR * d1[c]);
        float far_even = d4[c] - NEAR * NEAR * d2[c], far_odd = FAR * (d3[c] - NEAR * NEAR * d1[c]);
        o0[c] = d4[c] + PRODUCT * d0[c] - SUM * d2[c];
        o1[c] = even + odd;
        o2[c] = even - odd;
        o3[c] = far_even + far_odd;
        o4[c] = far_even - far_odd;
        o5[c] = d5[c] + PRODUCT * d1[c] - SUM * d3[c];
    }
}

/* A^T m: six vectors of `count` channels to four others. */
static inline void output_transform(const float *const *m, float *const *out, long count)
{
    const float *restrict m0 = m[0], *restrict m1 = m[1], *restrict m2 = m[2];
    const float *restrict m3 = m[3], *restrict m4 = m[4], *restrict m5 = m[5];
    float *restrict o0 = out[0], *restrict o1 = out[1], *restrict o2 = out[2], *restrict o3 = out[3];
    for (long c = 0; c < count; c++) {
        float even = m1[c] + m2[c], far_even = m3[c] + m4[c], odd = m1[c] - m2[c], far_odd = m3[c] - m4[c];
        o0[c] = m0[c] + even + far_even;
        o1[c] = NEAR * odd + FAR * far_odd;
        o2[c] = NEAR * NEAR * even + FAR * FAR * far_even;
        o3[c] = m5[c] + NEAR * NEAR * NEAR * odd + FAR * FAR * FAR * far_odd;
    }
}

/* B^T d B of `down` times `across` tiles, the first of which begins at (`top`, `left`); zeros lie beyond the map. */
void transform_inputs(const float *map, long height, long width, long channels, long top, long left, long down,
                      long across, float *points, int threads)
{
    static const float zeros[BLOCK];
    const long point = down * across * channels;
#pragma omp parallel for num_threads(threads)
    for (long tile = 0; tile < down * across; tile++) {
        const long y = top + TILE * (tile / across), x = left + TILE * (tile % across);
        float buffer[SIDE][SIDE][BLOCK];
        for (long first = 0; first < channels; first += BLOCK) {
            const long count = least(BLOCK, channels - first);
            for (long j = 0; j < SIDE; j++) {
                const float *column[SIDE];
                float *out[SIDE];
                for (long i = 0; i < SIDE; i++) {
                    const int inside = y + i >= 0 && y + i < height && x + j >= 0 && x + j < width;
                    column[i] = inside ? map + ((y + i) * width + x + j) * channels + first : zeros;
                    out[i] = buffer[i][j];
                }
                input_transform(column, out, count);
            }
            for (long i = 0; i < SIDE; i++) {
                const float *row[SIDE];
                float *out[SIDE];
                for (long j = 0; j < SIDE; j++) {
                    row[j] = buffer[i][j];
                    out[j] = points + (SIDE * i + j) * point + tile * channels + first;
                }
                input_transform(row, out, count);
            }
        }
    }
}

/* A^T m A of `down` times `across` tiles, plus the bias unless that is null, to the `rows` and `columns` of a map. */
void transform_outputs(const float *points, long down, long across, long channels, const float *bias, long rows,
                       long columns, float *map, int threads)
{
    const long point = down * across * channels;
#pragma omp parallel for num_threads(threads)
    for (long tile = 0; tile < down * across; tile++) {
        const long y = TILE * (tile / across), x = TILE * (tile % across);
        float buffer[TILE][SIDE][BLOCK], result[TILE][BLOCK];
        for (long first = 0; first < channels; first += BLOCK) {
            const long count = least(BLOCK, channels - first);
            for (long j = 0; j < SIDE; j++) {
                const float *column[SIDE];
                float *out[TILE];
                for (long i = 0; i < SIDE; i++)
                    column[i] = points + (SIDE * i + j) * point + tile * channels + first;
                for (long i = 0; i < TILE; i++)
                    out[i] = buffer[i][j];
                output_transform(column, out, count);
            }
            for (long i = 0; i < least(TILE, rows - y); i++) {
                const float *row[SIDE];
                float *out[TILE];
                for (long j = 0; j < SIDE; j++)
                    row[j] = buffer[i][j];
                for (long j = 0; j < TILE; j++)
                    out[j] = result[j];
                output_transform(row, out, count);
                for (long j = 0; j < least(TILE, columns - x); j++) {
                    float *restrict target = map + ((y + i) * columns + x + j) * channels + first;
                    for (long c = 0; c < count; c++)
                        target[c] = result[j][c] + (bias ? bias[first + c] : 0.0f);
                }
            }
        }
    }
}
