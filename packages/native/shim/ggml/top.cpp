// The largest values of rows.

#include "api.h"
#include "found_rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace {

// Values are looked at so many at a time: most often none of them is large enough. Of 16 gcc makes no vectors.
constexpr int BLOCK = 32;

// At whatever address.
float value_at(const char * row, int index) {
    float value;
    memcpy(&value, row + size_t(index) * sizeof(value), sizeof(value));
    return value;
}

// What is not a number counts as the least, and of equal values the first is before the others.
bool is_before(const top_value & a, const top_value & b) {
    return a.value > b.value || (a.value == b.value && a.index < b.index);
}

// Puts a value in place of the last one, which is the first of a heap.
void replace_last(top_value * heap, int count, top_value value) {
    int at = 0;
    for (;;) {
        int child = 2 * at + 1;
        if (child >= count) break;
        if (child + 1 < count && is_before(heap[child], heap[child + 1])) child++;
        if (is_before(heap[child], value)) break;
        heap[at] = heap[child];
        at       = child;
    }
    heap[at] = value;
}

void find(const char * row, int columns, int count, top_value * found) {
    for (int i = 0; i < count; i++) {
        const float value = value_at(row, i);
        found[i] = {uint32_t(i), std::isnan(value) ? -INFINITY : value};
    }
    std::make_heap(found, found + count, is_before);
    const auto look = [&](int index, float value) {
        if (value > found[0].value) replace_last(found, count, {uint32_t(index), value});
    };
    int at = count;
    for (; at + BLOCK <= columns; at += BLOCK) {
        float values[BLOCK];
        memcpy(values, row + size_t(at) * sizeof(float), sizeof(values));
        const float least    = found[0].value;
        int         is_large = 0;
        for (int i = 0; i < BLOCK; i++) {
            is_large |= int(values[i] > least);
        }
        if (is_large == 0) continue;
        for (int i = 0; i < BLOCK; i++) {
            look(at + i, values[i]);
        }
    }
    for (; at < columns; at++) {
        look(at, value_at(row, at));
    }
    std::sort(found, found + count, [](const top_value & a, const top_value & b) {
        return a.index < b.index;
    });
    for (int i = 0; i < count; i++) {
        found[i].value = value_at(row, int(found[i].index));
    }
}

} // namespace

// Of each row the `count` largest values, by their indexes, rising; 1 <= count <= columns.
API void gs_rows_top(const char * rows, double row_count, int columns, int count, top_value * found) {
    for (size_t row = 0; row < size_t(row_count); row++) {
        find(rows + row * size_t(columns) * sizeof(float), columns, count, found + row * size_t(count));
    }
}
