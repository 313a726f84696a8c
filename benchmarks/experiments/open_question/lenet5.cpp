// LeNet-5 as benchmarks.experiments.open_question trains it: forward and backward pass of one net, for 64 images.
//
// An activation is [channel][row][column][image]: the innermost loop runs over images, so that a sparse weight
// costs what it multiplies and no more. Weights lie as in PyTorch, all layers end to end, ascending positions.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

typedef float Vec __attribute__((vector_size(64)));  // 16 images
struct Images { Vec part[4]; };                        // one number for each of 64 images

static inline void add(Images &to, float factor, const Images &of) {
    for (int q = 0; q < 4; q++) to.part[q] += factor * of.part[q];
}
static inline float total(const Images &of) {
    const Vec sum = (of.part[0] + of.part[1]) + (of.part[2] + of.part[3]);
    float result = 0;
    for (int i = 0; i < 16; i++) result += sum[i];
    return result;
}

struct Layer {
    int in, rows, columns, out, side;
    bool pools;
    int taps() const { return in * side * side; }
    int high() const { return rows - side + 1; }
    int wide() const { return columns - side + 1; }
    int weights() const { return out * taps(); }
};
static const Layer LAYERS[5] = {{3, 32, 32, 6, 5, true},     {6, 14, 14, 16, 5, true},  {16, 5, 5, 120, 5, false},
                                {120, 1, 1, 82, 1, false}, {82, 1, 1, 10, 1, false}};
static const int WEIGHTS = 61510;

alignas(64) static Images filtered[5][6 * 28 * 28];  // outputs of each layer, then their gradients
alignas(64) static Images pooled[2][6 * 14 * 14], pooled_gradient[2][6 * 14 * 14];
alignas(64) static float whole[WEIGHTS + 64], whole_gradient[WEIGHTS + 64], turned[64][400];
static int places[5][400];  // of each tap, from the corner of a patch

static void find_places() {
    for (int l = 0; l < 5; l++) {
        const Layer &layer = LAYERS[l];
        int tap = 0;
        for (int c = 0; c < layer.in; c++)
            for (int y = 0; y < layer.side; y++)
                for (int x = 0; x < layer.side; x++) places[l][tap++] = (c * layer.rows + y) * layer.columns + x;
    }
}

// A row of a sparse weight: which taps it has, and their values.
struct Row { int count, tap[400]; float value[400]; };

static void forward_row(const Layer &layer, const int *place, const Row &row, const Images *in, Images *out) {
    for (int y = 0; y < layer.high(); y++)
        for (int x = 0; x < layer.wide(); x++) {
            const Images *corner = in + y * layer.columns + x;
            Images sum = {};
            for (int j = 0; j < row.count; j++) add(sum, row.value[j], corner[place[row.tap[j]]]);
            *out++ = sum;
        }
}

template <int ROWS>
static void forward_rows(const Layer &layer, const int *place, const float *weight, const Images *in, Images *out) {
    const int taps = layer.taps(), pixels = layer.high() * layer.wide();
    for (int y = 0; y < layer.high(); y++)
        for (int x = 0; x < layer.wide(); x++) {
            const Images *corner = in + y * layer.columns + x;
            Images sum[ROWS] = {};
            for (int t = 0; t < taps; t++) {
                const Images &input = corner[place[t]];
                for (int r = 0; r < ROWS; r++) add(sum[r], weight[r * taps + t], input);
            }
            for (int r = 0; r < ROWS; r++) out[r * pixels + y * layer.wide() + x] = sum[r];
        }
}

static void backward_row(const Layer &layer, const int *place, const Row &row, const Images *gradient, Images *to) {
    for (int y = 0; y < layer.high(); y++)
        for (int x = 0; x < layer.wide(); x++) {
            Images *corner = to + y * layer.columns + x;
            const Images one = *gradient++;
            for (int j = 0; j < row.count; j++) add(corner[place[row.tap[j]]], row.value[j], one);
        }
}

static void backward_rows(const Layer &layer, const int *place, const float *weight, const Images *gradient, Images *to) {
    const int taps = layer.taps(), pixels = layer.high() * layer.wide();
    for (int first = 0; first < layer.out; first += 2)  // all layers have an even number of rows
        for (int y = 0; y < layer.high(); y++)
            for (int x = 0; x < layer.wide(); x++) {
                const Images one = gradient[first * pixels + y * layer.wide() + x];
                const Images two = gradient[(first + 1) * pixels + y * layer.wide() + x];
                const float *a = weight + first * taps, *b = a + taps;
                Images *corner = to + y * layer.columns + x;
                for (int t = 0; t < taps; t++) {
                    Images sum = corner[place[t]];
                    add(sum, a[t], one);
                    add(sum, b[t], two);
                    corner[place[t]] = sum;
                }
            }
}

static void weights_of_row(
    const Layer &layer, const int *place, const Row &row, const Images *in, const Images *gradient, float *found) {
    int j = 0;
    for (; j + 4 <= row.count; j += 4) {
        Images sum[4] = {};
        const Images *at = gradient;
        for (int y = 0; y < layer.high(); y++)
            for (int x = 0; x < layer.wide(); x++, at++) {
                const Images *corner = in + y * layer.columns + x;
                for (int i = 0; i < 4; i++)
                    for (int q = 0; q < 4; q++) sum[i].part[q] += at->part[q] * corner[place[row.tap[j + i]]].part[q];
            }
        for (int i = 0; i < 4; i++) found[j + i] = total(sum[i]);
    }
    for (; j < row.count; j++) {
        Images sum = {};
        const Images *at = gradient;
        for (int y = 0; y < layer.high(); y++)
            for (int x = 0; x < layer.wide(); x++, at++)
                for (int q = 0; q < 4; q++)
                    sum.part[q] += at->part[q] * in[y * layer.columns + x + place[row.tap[j]]].part[q];
        found[j] = total(sum);
    }
}

// Five neighbouring taps of `ROWS` rows at a time.
template <int ROWS>
static void weights_of_rows(const Layer &layer, const int *place, const Images *in, const Images *gradient, float *found) {
    const int taps = layer.taps(), pixels = layer.high() * layer.wide();
    for (int t = 0; t < taps; t += 5) {
        Vec sum[ROWS][5] = {};
        for (int y = 0; y < layer.high(); y++)
            for (int x = 0; x < layer.wide(); x++) {
                const Images *corner = in + y * layer.columns + x + place[t];
                for (int q = 0; q < 4; q++)
                    for (int r = 0; r < ROWS; r++) {
                        const Vec one = gradient[r * pixels + y * layer.wide() + x].part[q];
                        for (int i = 0; i < 5; i++) sum[r][i] += one * corner[i].part[q];
                    }
            }
        for (int r = 0; r < ROWS; r++)
            for (int i = 0; i < 5; i++) {
                float result = 0;
                for (int lane = 0; lane < 16; lane++) result += sum[r][i][lane];
                found[r * taps + t + i] = result;
            }
    }
}

// Layers of one pixel: a product of matrices, images turned outwards.
static void weights_of_matrix(const Layer &layer, const Images *in, const Images *gradient, float *found) {
    const int taps = layer.taps();
    const float *flat = reinterpret_cast<const float *>(in);
    for (int t = 0; t < taps; t++)
        for (int b = 0; b < 64; b++) turned[b][t] = flat[t * 64 + b];
    for (int r = 0; r < layer.out; r++) {
        float *row = found + r * taps;
        const float *of = reinterpret_cast<const float *>(gradient + r);
        std::memset(row, 0, sizeof(float) * taps);
        for (int b = 0; b < 64; b += 4)
            for (int t = 0; t < taps; t++)
                row[t] += of[b] * turned[b][t] + of[b + 1] * turned[b + 1][t] + of[b + 2] * turned[b + 2][t] +
                          of[b + 3] * turned[b + 3][t];
    }
}

static void relu(Images *of, int count) {
    for (int i = 0; i < count; i++)
        for (int q = 0; q < 4; q++) of[i].part[q] = of[i].part[q] > 0 ? of[i].part[q] : Vec{};
}

static void pool(const Layer &layer, const Images *in, Images *out) {
    const int wide = layer.wide();
    for (int c = 0; c < layer.out; c++)
        for (int y = 0; y < layer.high(); y += 2)
            for (int x = 0; x < wide; x += 2, out++) {
                const Images *at = in + (c * layer.high() + y) * wide + x;
                for (int q = 0; q < 4; q++)
                    out->part[q] = 0.25f * ((at[0].part[q] + at[1].part[q]) + (at[wide].part[q] + at[wide + 1].part[q]));
            }
}

// The gradient of what ReLU (and pooling) made of `of`, in its place.
static void through_relu(const Layer &layer, Images *of, const Images *gradient) {
    const int wide = layer.wide();
    for (int c = 0; c < layer.out; c++)
        for (int y = 0; y < layer.high(); y++)
            for (int x = 0; x < wide; x++, of++) {
                const Images *one = gradient + (layer.pools ? (c * (layer.high() / 2) + y / 2) * (wide / 2) + x / 2
                                                            : (c * layer.high() + y) * wide + x);
                const float factor = layer.pools ? 0.25f : 1.0f;
                for (int q = 0; q < 4; q++) of->part[q] = of->part[q] > 0 ? factor * one->part[q] : Vec{};
            }
}

// Which values belong to row `r`; `next` goes from row to row.
static void take(Row &row, int start, int end, const int32_t *indices, const float *values, int count, int &next) {
    row.count = 0;
    for (; next < count && indices[next] < end; next++) {
        row.tap[row.count] = indices[next] - start;
        row.value[row.count++] = values[next];
    }
}

extern "C" {

// One net, one batch of up to 64 images: x [3][32][32][64]. Values of S at ascending flat positions; with an
// offset, five scales and C. Without a place for gradients only the forward pass. Returns the mean loss.
float lenet5(const float *x, const int64_t *labels, int images, const int32_t *indices, const float *values, int count,
             const float *scales, const float *offset, float *value_gradients, float *scale_gradients, int32_t *right) {
    static bool ready = (find_places(), true);
    (void)ready;
    static Row row;
    const bool dense = offset != nullptr;
    if (dense) {
        for (int l = 0, start = 0; l < 5; start += LAYERS[l++].weights())
            for (int i = start; i < start + LAYERS[l].weights(); i++) whole[i] = scales[l] * offset[i];
        for (int j = 0; j < count; j++) whole[indices[j]] += values[j];
    }
    const Images *inputs[5];
    const Images *in = reinterpret_cast<const Images *>(x);
    int start = 0, next = 0, firsts[6] = {};
    for (int l = 0; l < 5; l++) {
        const Layer &layer = LAYERS[l];
        const int taps = layer.taps(), pixels = layer.high() * layer.wide();
        inputs[l] = in;
        if (dense) {
            const float *weight = whole + start;
            int r = 0;
            if (l == 0) forward_rows<6>(layer, places[l], weight, in, filtered[l]);
            else {
                for (; r + 4 <= layer.out; r += 4) forward_rows<4>(layer, places[l], weight + r * taps, in, filtered[l] + r * pixels);
                for (; r < layer.out; r += 2) forward_rows<2>(layer, places[l], weight + r * taps, in, filtered[l] + r * pixels);
            }
        } else
            for (int r = 0; r < layer.out; r++) {
                take(row, start + r * taps, start + (r + 1) * taps, indices, values, count, next);
                forward_row(layer, places[l], row, in, filtered[l] + r * pixels);
            }
        if (l < 4) relu(filtered[l], layer.out * pixels);
        if (layer.pools) pool(layer, filtered[l], pooled[l]);
        in = layer.pools ? pooled[l] : filtered[l];
        start += layer.weights();
        firsts[l + 1] = next;
    }
    float loss = 0;
    *right = 0;
    float *logits = reinterpret_cast<float *>(filtered[4]);  // [class][image]; then their gradients
    for (int b = 0; b < 64; b++) {
        float most = logits[b], sum = 0;
        int best = 0;
        for (int c = 1; c < 10; c++)
            if (logits[c * 64 + b] > most) most = logits[c * 64 + b], best = c;
        for (int c = 0; c < 10; c++) sum += std::exp(logits[c * 64 + b] - most);
        if (b < images) {
            loss -= logits[labels[b] * 64 + b] - most - std::log(sum);
            *right += best == labels[b];
        }
        for (int c = 0; c < 10; c++) {
            const float share = std::exp(logits[c * 64 + b] - most) / sum - (b < images && c == labels[b]);
            logits[c * 64 + b] = b < images ? share / images : 0;
        }
    }
    if (value_gradients == nullptr) return loss / images;

    for (int l = 4; l >= 0; l--) {
        const Layer &layer = LAYERS[l];
        const int taps = layer.taps(), pixels = layer.high() * layer.wide();
        start -= layer.weights();
        Images *below = nullptr;
        if (l > 0) {
            below = pooled_gradient[l % 2];
            std::memset(below, 0, sizeof(Images) * layer.in * layer.rows * layer.columns);
        }
        if (dense) {
            float *found = whole_gradient + start;
            if (l == 0) weights_of_rows<6>(layer, places[l], inputs[l], filtered[l], found);
            else if (l == 1)
                for (int r = 0; r < layer.out; r += 4)
                    weights_of_rows<4>(layer, places[l], inputs[l], filtered[l] + r * pixels, found + r * taps);
            else weights_of_matrix(layer, inputs[l], filtered[l], found);
            if (below) backward_rows(layer, places[l], whole + start, filtered[l], below);
            double sum = 0;
            for (int i = start; i < start + layer.weights(); i++) sum += double(whole_gradient[i]) * offset[i];
            scale_gradients[l] = float(sum);
        } else {
            next = firsts[l];
            for (int r = 0; r < layer.out; r++) {
                const int first = next;
                take(row, start + r * taps, start + (r + 1) * taps, indices, values, count, next);
                if (!row.count) continue;
                weights_of_row(layer, places[l], row, inputs[l], filtered[l] + r * pixels, value_gradients + first);
                if (below) backward_row(layer, places[l], row, filtered[l] + r * pixels, below);
            }
        }
        if (l > 0) through_relu(LAYERS[l - 1], filtered[l - 1], below);
    }
    if (dense)
        for (int j = 0; j < count; j++) value_gradients[j] = whole_gradient[indices[j]];
    return loss / images;
}
}
