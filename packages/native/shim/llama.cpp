// libllama calls that take or return structs by value.

#include "abort_flag.h"
#include "api.h"
#include "found_rows.h"
#include "llama.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

thread_local std::string g_error;

bool progress_unless_aborted(float, void * flag) {
    return flag == nullptr || !abort_requested(flag);
}

} // namespace

// The message of the exception that the last call of this library swallowed; empty when it threw none.
API const char * ls_last_error() {
    return g_error.c_str();
}

API void ls_init(void * log_callback) {
    llama_log_set(reinterpret_cast<ggml_log_callback>(log_callback), nullptr);
    llama_backend_init();
}

// Options of ls_model_load, in the order of this struct; all 8 bytes wide so that TypeScript can fill
// it as a Float64Array. Pointers travel as doubles (addresses are below 2^53).
struct model_options {
    double devices;       // ggml_backend_dev_t[], null-terminated; 0: none (CPU only)
    double tensor_split;  // float[llama_max_devices()], 0: by free memory
    double gpu_layers;    // -1: all
    double load_mode;     // llama_load_mode
    double no_alloc;
    double vocab_only;
    double check_tensors;
    double use_extra_bufts;
    double abort_flag;    // address of an abort_flag, 0: none
    double overrides;     // tensor_override[], ended by one without a pattern; 0: none
    double split_mode;    // llama_split_mode
};

struct tensor_override {
    uint64_t pattern; // const char *: a regular expression that finds the tensor's name
    uint64_t device;  // ggml_backend_dev_t, 0: the CPU
};

static std::vector<llama_model_tensor_buft_override> buffer_types_of(const tensor_override * overrides) {
    std::vector<llama_model_tensor_buft_override> types;
    for (auto * item = overrides; item != nullptr && item->pattern != 0; item++) {
        auto * device = reinterpret_cast<ggml_backend_dev_t>(uintptr_t(item->device));
        types.push_back({
            reinterpret_cast<const char *>(uintptr_t(item->pattern)),
            device != nullptr ? ggml_backend_dev_buffer_type(device) : ggml_backend_cpu_buffer_type(),
        });
    }
    types.push_back({nullptr, nullptr});
    return types;
}

API llama_model * ls_model_load(const char * path, const model_options * options) {
    g_error.clear();
    llama_model_params params = llama_model_default_params();
    static ggml_backend_dev_t no_devices[1] = {nullptr};
    auto * devices = reinterpret_cast<ggml_backend_dev_t *>(uintptr_t(options->devices));
    params.devices         = devices != nullptr ? devices : no_devices;
    params.tensor_split    = reinterpret_cast<const float *>(uintptr_t(options->tensor_split));
    params.n_gpu_layers    = int32_t(options->gpu_layers);
    params.split_mode      = static_cast<enum llama_split_mode>(int(options->split_mode));
    params.load_mode       = static_cast<enum llama_load_mode>(int(options->load_mode));
    params.no_alloc        = options->no_alloc != 0;
    params.vocab_only      = options->vocab_only != 0;
    params.check_tensors   = options->check_tensors != 0;
    params.use_extra_bufts = options->use_extra_bufts != 0;
    const auto overrides = buffer_types_of(reinterpret_cast<const tensor_override *>(uintptr_t(options->overrides)));
    if (overrides.size() > 1) params.tensor_buft_overrides = overrides.data();
    // libllama prints dots to its log without a callback.
    params.progress_callback           = progress_unless_aborted;
    params.progress_callback_user_data = reinterpret_cast<void *>(uintptr_t(options->abort_flag));
    try {
        return llama_model_load_from_file(path, params);
    } catch (const std::exception & error) {
        g_error = error.what();
        return nullptr;
    }
}

struct context_options {
    double context_size;    // 0: the model's
    double batch_size;
    double ubatch_size;
    double sequence_count;
    double threads;
    double threads_batch;
    double flash_attention; // -1 auto, 0 off, 1 on
    double type_k;          // ggml_type
    double type_v;
    double embeddings;
    double pooling;         // llama_pooling_type, -1: the model's
    double offload_kqv;
    double swa_full;
    double abort_flag;      // address of an abort_flag, 0: none
    double output_count;    // most outputs of a decode; 0: as many as tokens
    double candidates;      // llama_sampler *[sequence_count] of ls_candidates_new; 0: none
    // NaN: the default.
    double rope_scaling;    // llama_rope_scaling_type
    double rope_freq_base;
    double rope_freq_scale;
    double yarn_orig_ctx;
    double yarn_ext_factor;
    double yarn_attn_factor;
    double yarn_beta_slow;
    double yarn_beta_fast;
};

template <typename T> static void set_unless_nan(T & field, double value) {
    if (!std::isnan(value)) field = T(value);
}

API llama_context * ls_context_new(llama_model * model, const context_options * options) {
    g_error.clear();
    llama_context_params params = llama_context_default_params();
    params.n_ctx           = uint32_t(options->context_size);
    params.n_batch         = uint32_t(options->batch_size);
    params.n_ubatch        = uint32_t(options->ubatch_size);
    params.n_seq_max       = uint32_t(options->sequence_count);
    // Sequences share all cells, and with them what they have in common. With it, libllama looks at each pair of the 256 that there
    // could be before it decodes (v0.5.0, llama-batch.cpp `init`), which one alone need not pay for: a tenth of a millisecond.
    params.kv_unified      = options->sequence_count > 1;
    params.n_threads       = int32_t(options->threads);
    params.n_threads_batch = int32_t(options->threads_batch);
    params.flash_attn_type = static_cast<enum llama_flash_attn_type>(int(options->flash_attention));
    params.type_k          = ggml_type(int(options->type_k));
    params.type_v          = ggml_type(int(options->type_v));
    params.embeddings      = options->embeddings != 0;
    params.pooling_type    = static_cast<enum llama_pooling_type>(int(options->pooling));
    params.offload_kqv     = options->offload_kqv != 0;
    params.swa_full        = options->swa_full != 0;
    params.no_perf         = true;
    params.n_outputs_max   = uint32_t(options->output_count);
    std::vector<llama_sampler_seq_config> samplers;
    if (options->candidates != 0) {
        auto * chains = reinterpret_cast<llama_sampler **>(uintptr_t(options->candidates));
        for (int sequence = 0; sequence < int(options->sequence_count); sequence++) {
            samplers.push_back({sequence, chains[sequence]});
        }
        params.samplers              = samplers.data();
        params.n_samplers            = samplers.size();
        params.n_outputs_max_per_seq = 0;
    }
    if (!std::isnan(options->rope_scaling)) {
        params.rope_scaling_type = static_cast<enum llama_rope_scaling_type>(int(options->rope_scaling));
    }
    set_unless_nan(params.rope_freq_base, options->rope_freq_base);
    set_unless_nan(params.rope_freq_scale, options->rope_freq_scale);
    set_unless_nan(params.yarn_orig_ctx, options->yarn_orig_ctx);
    set_unless_nan(params.yarn_ext_factor, options->yarn_ext_factor);
    set_unless_nan(params.yarn_attn_factor, options->yarn_attn_factor);
    set_unless_nan(params.yarn_beta_slow, options->yarn_beta_slow);
    set_unless_nan(params.yarn_beta_fast, options->yarn_beta_fast);
    if (options->abort_flag != 0) {
        params.abort_callback      = abort_requested;
        params.abort_callback_data = reinterpret_cast<void *>(uintptr_t(options->abort_flag));
    }
    try {
        return llama_init_from_model(model, params);
    } catch (const std::exception & error) {
        g_error = error.what();
        return nullptr;
    }
}

namespace {

// first_position < 0: libllama counts on. all_outputs: logits (or embeddings) for every token, else
// only for the last one.
llama_batch batch_of(int32_t * tokens, int count, int first_position, int all_outputs, std::vector<llama_pos> & positions, std::vector<int8_t> & outputs) {
    llama_batch batch = llama_batch_get_one(tokens, count);
    if (first_position >= 0) {
        positions.resize(size_t(count));
        for (int i = 0; i < count; i++) {
            positions[size_t(i)] = first_position + i;
        }
        batch.pos = positions.data();
    }
    if (all_outputs) {
        outputs.assign(size_t(count), 1);
        batch.logits = outputs.data();
    }
    return batch;
}

std::vector<llama_pos> g_positions;
std::vector<int8_t>    g_outputs;

} // namespace

// 0 success; 1 no room in the KV cache; 2 aborted; negative: failed (see llama_decode).
API int ls_decode(llama_context * context, int32_t * tokens, int count, int first_position, int all_outputs) {
    try {
        return llama_decode(context, batch_of(tokens, count, first_position, all_outputs, g_positions, g_outputs));
    } catch (const std::exception & error) {
        g_error = error.what();
        return -100;
    }
}

// The same for tokens of several sequences: each with its position, its sequence, and whether it has an output.
API int ls_decode_batch(llama_context * context, int32_t * tokens, int32_t * positions, int32_t * sequences, int8_t * outputs, int count) {
    static thread_local std::vector<int32_t>        counts;
    static thread_local std::vector<llama_seq_id *> ids;
    try {
        counts.assign(size_t(count), 1);
        ids.resize(size_t(count));
        for (int i = 0; i < count; i++) {
            ids[size_t(i)] = sequences + i;
        }
        llama_batch batch = {};
        batch.n_tokens    = count;
        batch.token       = tokens;
        batch.pos         = positions;
        batch.n_seq_id    = counts.data();
        batch.seq_id      = ids.data();
        batch.logits      = outputs;
        return llama_decode(context, batch);
    } catch (const std::exception & error) {
        g_error = error.what();
        return -100;
    }
}

API int ls_encode(llama_context * context, int32_t * tokens, int count, int first_position, int all_outputs) {
    try {
        return llama_encode(context, batch_of(tokens, count, first_position, all_outputs, g_positions, g_outputs));
    } catch (const std::exception & error) {
        g_error = error.what();
        return -100;
    }
}

// The number of tokens written; -n when capacity is below the n that are needed; INT32_MIN when the
// vocabulary cannot express the text (it lacks a byte's token, say) or the count overflows.
API int ls_tokenize(const llama_vocab * vocab, const char * text, int size, int32_t * tokens, int capacity, bool add_special, bool parse_special) {
    g_error.clear();
    try {
        return llama_tokenize(vocab, text, size, tokens, capacity, add_special, parse_special);
    } catch (const std::exception & error) {
        g_error = error.what();
        return INT32_MIN;
    }
}

API llama_sampler * ls_sampler_chain_new() {
    llama_sampler_chain_params params = llama_sampler_chain_default_params();
    params.no_perf = true;
    return llama_sampler_chain_init(params);
}

namespace {

// All tokens with their logits, for samplers to work on.
std::vector<llama_token_data> g_candidates;

llama_token_data_array candidates_of(const float * logits, int count) {
    g_candidates.resize(size_t(count));
    for (int token = 0; token < count; token++) {
        g_candidates[size_t(token)] = {token, logits[token], 0.0f};
    }
    return {g_candidates.data(), g_candidates.size(), -1, false};
}

// What a device found of them (llama_candidates.cpp), by their numbers: of equally likely ones the first comes first, as of all.
llama_token_data_array found_candidates(llama_context * context, int index, int count) {
    const llama_token * tokens = llama_get_sampled_candidates_ith(context, index);
    const float *       logits = llama_get_sampled_logits_ith(context, index);
    g_candidates.resize(size_t(count));
    for (int place = 0; place < count; place++) {
        g_candidates[size_t(place)] = {tokens[place], logits[place], 0.0f};
    }
    std::sort(g_candidates.begin(), g_candidates.end(), [](const llama_token_data & a, const llama_token_data & b) {
        return a.id < b.id;
    });
    return {g_candidates.data(), g_candidates.size(), -1, false};
}

// Adds tokens whose logits were read whole.
void add_whole(const float * logits, size_t begin, size_t end) {
    for (size_t token = begin; token < end; token++) {
        g_candidates.push_back({llama_token(token), logits[token], 0.0f});
    }
}

// Adds those that a server found in its part of a row, which begins with the token `begin`. Throws where it named others.
void add_found(const found_part & part, const float * logits, size_t begin) {
    int64_t last = -1;
    for (size_t i = 0; i < part.count; i++) {
        top_value found;
        memcpy(&found, reinterpret_cast<const char *>(logits + begin) + i * sizeof(found), sizeof(found));
        if (int64_t(found.index) <= last || found.index >= part.columns) {
            throw std::runtime_error("a server named tokens that are not among those it was asked for");
        }
        last = int64_t(found.index);
        g_candidates.push_back({llama_token(begin + found.index), found.value, 0.0f});
    }
}

// What servers found in their parts of a row of logits, and all tokens of other parts; by their numbers, as above.
llama_token_data_array read_candidates(const found_rows & rows, const float * logits, size_t count) {
    g_candidates.clear();
    size_t next = 0;
    for (size_t i = 0; i < rows.part_count; i++) {
        const found_part & part = rows.parts[i];
        // The part may be that of another row.
        const int64_t distance  = int64_t(part.address) - int64_t(reinterpret_cast<uint64_t>(logits));
        const int64_t row_bytes = int64_t(rows.row_bytes);
        const size_t  begin     = size_t((distance % row_bytes + row_bytes) % row_bytes) / sizeof(float);
        if (begin < next || begin + part.columns > count) {
            throw std::runtime_error("parts of the logits are not where they should be");
        }
        add_whole(logits, next, begin);
        add_found(part, logits, begin);
        next = begin + part.columns;
    }
    add_whole(logits, next, count);
    return {g_candidates.data(), g_candidates.size(), -1, false};
}

bool grammar_allows(llama_sampler * grammar, llama_token token) {
    llama_token_data       one   = {token, 1.0f, 0.0f};
    llama_token_data_array array = {&one, 1, -1, false};
    llama_sampler_apply(grammar, &array);
    return one.logit != -INFINITY;
}

} // namespace

// The token that the chain chooses at an output of the last decode, and that the grammar (may be null) allows; both
// accept it. As upstream's, it asks the grammar about the chosen token first, which is cheap, and only where that is refused
// about all. -1 when nothing is left to choose from, with ls_last_error. `rows` (may be null) tells what of the logits was read; a
// grammar needs all of them.
API int ls_sample(llama_sampler * chain, llama_sampler * grammar, llama_context * context, int index, const found_rows * rows) {
    g_error.clear();
    try {
        const float * logits  = llama_get_logits_ith(context, index);
        const int     count   = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(context)));
        const int     found   = int(llama_get_sampled_candidates_count_ith(context, index));
        const bool    is_read = rows != nullptr && rows->part_count > 0;
        if (is_read && grammar != nullptr) {
            g_error = "a grammar needs all logits";
            return -1;
        }
        llama_token_data_array candidates = found > 0 ? found_candidates(context, index, found) :
            is_read ? read_candidates(*rows, logits, size_t(count)) : candidates_of(logits, count);
        llama_sampler_apply(chain, &candidates);
        if (candidates.selected < 0) {
            g_error = "the samplers leave no token to choose";
            return -1;
        }
        llama_token token = candidates.data[candidates.selected].id;
        if (grammar != nullptr && !grammar_allows(grammar, token)) {
            candidates = candidates_of(logits, count);
            llama_sampler_apply(grammar, &candidates);
            llama_sampler_apply(chain, &candidates);
            if (candidates.selected < 0) {
                g_error = "the grammar leaves no token to choose";
                return -1;
            }
            token = candidates.data[candidates.selected].id;
        }
        if (grammar != nullptr) {
            llama_sampler_accept(grammar, token);
        }
        llama_sampler_accept(chain, token);
        return token;
    } catch (const std::exception & error) {
        g_error = error.what();
        return -1;
    }
}

namespace {

std::vector<llama_token> g_ranking;

} // namespace

// Logarithms of probabilities, by the logits alone, at an output of the last decode: that of token first, then the most likely
// ones', falling. Writes 1 + most at most; the number written. -1 where a device found candidates: there are no other logits.
API int ls_logprobs(llama_context * context, int index, llama_token token, int most, int32_t * tokens, float * logprobs) {
    if (llama_get_sampled_candidates_count_ith(context, index) > 0) return -1;
    const float * logits = llama_get_logits_ith(context, index);
    const int     count  = llama_vocab_n_tokens(llama_model_get_vocab(llama_get_model(context)));
    most                 = std::clamp(most, 0, count);
    const float greatest = *std::max_element(logits, logits + count);
    double      sum      = 0.0;
    for (int i = 0; i < count; i++) {
        sum += std::exp(double(logits[i] - greatest));
    }
    const double whole = double(greatest) + std::log(sum);
    g_ranking.resize(size_t(count));
    std::iota(g_ranking.begin(), g_ranking.end(), 0);
    std::partial_sort(g_ranking.begin(), g_ranking.begin() + most, g_ranking.end(), [logits](llama_token a, llama_token b) {
        return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
    });
    for (int i = 0; i <= most; i++) {
        tokens[i]   = i == 0 ? token : g_ranking[size_t(i - 1)];
        logprobs[i] = float(double(logits[tokens[i]]) - whole);
    }
    return most + 1;
}

API double ls_model_size(const llama_model * model) {
    return double(llama_model_size(model));
}

API double ls_model_parameter_count(const llama_model * model) {
    return double(llama_model_n_params(model));
}
