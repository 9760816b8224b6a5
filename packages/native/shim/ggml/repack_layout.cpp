#include "repack_layout.h"
#include "ggml-backend-impl.h"

#include <algorithm>
#include <cstring>

namespace {

// Of a group, so that one lies on the stack: 16 rows of the largest blocks are below 5 KB.
constexpr size_t kMaxGroupBytes = 8192;

// Groups of the matrix that is converted to and fro before a layout is used: more than one in each direction.
constexpr int64_t kProbeBlocks = 3;
constexpr int64_t kProbeGroups = 2;
constexpr int     kProbeRounds = 4;

uint8_t rotated(uint8_t value, int left) {
    return uint8_t(value << left | value >> ((8 - left) & 7));
}

bool bit_of(const uint8_t * bytes, size_t bit) {
    return (bytes[bit / 8] >> (bit % 8) & 1) != 0;
}

void fill_at_random(std::vector<uint8_t> & bytes, uint64_t & state) {
    for (uint8_t & byte : bytes) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        byte = uint8_t(state >> 32);
    }
}

// As the buffer type's conversion and choice of a layout want it.
ggml_tensor tensor_over(ggml_type type, ggml_backend_buffer_t buffer, const quantized_rows & matrix) {
    ggml_tensor tensor{};
    tensor.type   = type;
    tensor.buffer = buffer;
    tensor.data   = matrix.data;
    tensor.ne[0]  = matrix.row_blocks * ggml_blck_size(type);
    tensor.ne[1]  = matrix.rows;
    tensor.ne[2]  = 1;
    tensor.ne[3]  = 1;
    tensor.nb[0]  = ggml_type_size(type);
    tensor.nb[1]  = tensor.nb[0] * size_t(matrix.row_blocks);
    tensor.nb[2]  = tensor.nb[1] * size_t(matrix.rows);
    tensor.nb[3]  = tensor.nb[2];
    return tensor;
}

} // namespace

size_t repack_layout::group_bytes() const {
    return size_t(m_rows) * ggml_type_size(m_type);
}

size_t repack_layout::bytes_of(const quantized_rows & matrix) const {
    return size_t(matrix.rows) * size_t(matrix.row_blocks) * ggml_type_size(m_type);
}

bool repack_layout::takes(const quantized_rows & matrix) const {
    return matrix.rows > 0 && matrix.row_blocks > 0 && matrix.rows % m_rows == 0 &&
           size_t(matrix.row_blocks) <= kRepackStagingBytes / group_bytes();
}

// ---- to the layout and back ----------------------------------------------------------------------------

template <typename Convert>
void repack_layout::in_slices(const quantized_rows & matrix, Convert convert) const {
    const size_t  row_bytes  = size_t(matrix.row_blocks) * ggml_type_size(m_type);
    const int64_t slice_rows = int64_t(kRepackStagingBytes / (row_bytes * size_t(m_rows))) * m_rows;
    for (int64_t row = 0; row < matrix.rows; row += slice_rows) {
        convert(quantized_rows{matrix.data + size_t(row) * row_bytes, matrix.row_blocks, std::min(slice_rows, matrix.rows - row)});
    }
}

void repack_layout::convert(const quantized_rows & slice, const uint8_t * original) const {
    ggml_tensor tensor = tensor_over(m_type, m_buffer, slice);
    tensor.extra = m_traits;
    m_buffer->iface.set_tensor(m_buffer, &tensor, original, 0, bytes_of(slice));
}

void repack_layout::pack(const quantized_rows & matrix, uint8_t * staging) const {
    in_slices(matrix, [&](const quantized_rows & slice) {
        memcpy(staging, slice.data, bytes_of(slice));
        convert(slice, staging);
    });
}

void repack_layout::unpack(const quantized_rows & matrix, uint8_t * staging) const {
    const size_t block_bytes = ggml_type_size(m_type);
    const size_t row_bytes   = size_t(matrix.row_blocks) * block_bytes;
    in_slices(matrix, [&](const quantized_rows & slice) {
        memcpy(staging, slice.data, bytes_of(slice));
        const uint8_t * packed = staging;
        for (int64_t row = 0; row < slice.rows; row += m_rows) {
            for (int64_t block = 0; block < slice.row_blocks; block++, packed += group_bytes()) {
                uint8_t original[kMaxGroupBytes];
                unpack_group(packed, original);
                uint8_t * target = slice.data + size_t(row) * row_bytes + size_t(block) * block_bytes;
                for (int64_t i = 0; i < m_rows; i++) {
                    memcpy(target + size_t(i) * row_bytes, original + size_t(i) * block_bytes, block_bytes);
                }
            }
        }
    });
}

void repack_layout::unpack_group(const uint8_t * packed, uint8_t * original) const {
    memcpy(original, m_flips.data(), m_flips.size());
    for (const run & part : m_runs) {
        for (uint32_t i = 0; i < part.size; i++) {
            original[part.to + i] ^= packed[part.from + i];
        }
    }
    for (const bits & part : m_bits) {
        original[part.to] ^= rotated(packed[part.from], part.rotation) & part.mask;
    }
}

// ---- learned -------------------------------------------------------------------------------------------

bool repack_layout::learn(ggml_backend_buffer_t buffer, ggml_type type, void * traits, int64_t rows) {
    m_buffer = buffer;
    m_type   = type;
    m_traits = traits;
    m_rows   = rows;
    return group_bytes() <= kMaxGroupBytes && learn_bits() && is_taken_back();
}

// Each bit of a group's number in as many conversions as the number has digits: what comes out at a place, digit by digit, is
// the number of the bit that went there.
bool repack_layout::learn_bits() {
    const size_t bytes = group_bytes();
    const size_t count = 8 * bytes;
    std::vector<uint8_t> original(bytes), packed(bytes);
    const quantized_rows group{packed.data(), 1, m_rows};
    convert(group, original.data());
    const std::vector<uint8_t> zeros = packed;
    std::vector<uint32_t> bit_at(count);
    for (int digit = 0; count >> digit != 0; digit++) {
        for (size_t bit = 0; bit < count; bit++) {
            const uint8_t mask = uint8_t(1 << bit % 8);
            original[bit / 8] = uint8_t((original[bit / 8] & ~mask) | (bit >> digit & 1 ? mask : 0));
        }
        convert(group, original.data());
        for (size_t place = 0; place < count; place++) {
            if (bit_of(packed.data(), place) != bit_of(zeros.data(), place)) {
                bit_at[place] |= uint32_t(1) << digit;
            }
        }
    }
    constexpr uint32_t kNowhere = UINT32_MAX;
    std::vector<uint32_t> place_of(count, kNowhere);
    for (size_t place = 0; place < count; place++) {
        if (bit_at[place] >= count || place_of[bit_at[place]] != kNowhere) {
            return false;
        }
        place_of[bit_at[place]] = uint32_t(place);
    }
    m_flips.assign(bytes, 0);
    for (size_t byte = 0; byte < bytes; byte++) {
        const uint32_t to = uint32_t(byte);
        const uint32_t * places = place_of.data() + 8 * byte;
        // Bits that come out of one byte by one rotation, together.
        for (int bit = 0; bit < 8; bit++) {
            const uint32_t from  = places[bit] / 8;
            const uint8_t rotation = uint8_t((8 + bit - int(places[bit] % 8)) % 8);
            uint8_t mask = 0;
            bool is_known = false;
            for (int other = 0; other < 8; other++) {
                if (places[other] / 8 == from && (8 + other - int(places[other] % 8)) % 8 == rotation) {
                    mask = uint8_t(mask | 1 << other);
                    is_known |= other < bit;
                }
            }
            if (is_known) {
                continue;
            }
            if (mask != 0xff || rotation != 0) {
                m_bits.push_back({to, from, mask, rotation});
            } else if (!m_runs.empty() && m_runs.back().to + m_runs.back().size == to && m_runs.back().from + m_runs.back().size == from) {
                m_runs.back().size++;
            } else {
                m_runs.push_back({to, from, 1});
            }
        }
    }
    std::vector<uint8_t> flips(bytes);
    unpack_group(zeros.data(), flips.data());
    m_flips = flips;
    return true;
}

// That groups stand for themselves, in this order, and that no bit depends on another one.
bool repack_layout::is_taken_back() const {
    const quantized_rows shape{nullptr, kProbeBlocks, kProbeGroups * m_rows};
    // One slice.
    std::vector<uint8_t> original(bytes_of(shape)), bytes, staging(original.size());
    uint64_t state = 0x9e3779b97f4a7c15;
    for (int round = 0; round < kProbeRounds; round++) {
        fill_at_random(original, state);
        bytes.assign(original.size(), 0);
        const quantized_rows matrix{bytes.data(), shape.row_blocks, shape.rows};
        convert(matrix, original.data());
        unpack(matrix, staging.data());
        if (bytes != original) {
            return false;
        }
    }
    return true;
}

// ---- those of the loaded backend -----------------------------------------------------------------------

namespace {

constexpr char kBufferTypeName[] = "CPU_REPACK";

ggml_backend_buffer_type_t find_buffer_type(ggml_backend_dev_t device) {
    ggml_backend_reg_t reg = device != nullptr ? ggml_backend_dev_backend_reg(device) : nullptr;
    if (reg == nullptr) {
        return nullptr;
    }
    auto types_of = reinterpret_cast<ggml_backend_dev_get_extra_bufts_t>(ggml_backend_reg_get_proc_address(reg, "ggml_backend_dev_get_extra_bufts"));
    ggml_backend_buffer_type_t * types = types_of != nullptr ? types_of(device) : nullptr;
    for (; types != nullptr && *types != nullptr; types++) {
        if (strcmp(ggml_backend_buft_name(*types), kBufferTypeName) == 0) {
            return *types;
        }
    }
    return nullptr;
}

// The `extra` that the buffer type gives a weight; nullptr for none.
void * traits_of(ggml_backend_buffer_t buffer, ggml_tensor weight) {
    weight.buffer = buffer;
    weight.extra  = nullptr;
    buffer->iface.init_tensor(buffer, &weight);
    return weight.extra;
}

repack_layouts load_layouts() {
    repack_layouts layouts;
    layouts.device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    ggml_backend_buffer_type_t type = find_buffer_type(layouts.device);
    layouts.buffer = type != nullptr ? ggml_backend_buft_alloc_buffer(type, ggml_backend_buft_get_alignment(type)) : nullptr;
    if (layouts.buffer == nullptr || layouts.buffer->iface.init_tensor == nullptr || layouts.buffer->iface.set_tensor == nullptr) {
        return layouts;
    }
    std::vector<void *> seen;
    for (int id = 0; id < GGML_TYPE_COUNT; id++) {
        const ggml_type block = ggml_type(id);
        if (!ggml_is_quantized(block)) {
            continue;
        }
        // The fewest rows that get a layout are a group of it.
        for (int64_t rows = 1; rows <= 64; rows *= 2) {
            void * traits = traits_of(layouts.buffer, tensor_over(block, layouts.buffer, {nullptr, 1, rows}));
            if (traits == nullptr || std::find(seen.begin(), seen.end(), traits) != seen.end()) {
                continue;
            }
            seen.push_back(traits);
            repack_layout layout;
            if (layout.learn(layouts.buffer, block, traits, rows)) {
                layouts.all.push_back(std::move(layout));
            }
        }
    }
    return layouts;
}

} // namespace

const repack_layout * repack_layouts::of(const ggml_tensor & weight) const {
    if (all.empty()) {
        return nullptr;
    }
    void * traits = traits_of(buffer, weight);
    for (const repack_layout & layout : all) {
        if (layout.traits() == traits && layout.type() == weight.type) {
            return &layout;
        }
    }
    return nullptr;
}

const repack_layouts & loaded_repack_layouts() {
    static const repack_layouts layouts = load_layouts();
    return layouts;
}
