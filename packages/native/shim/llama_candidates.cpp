// The most likely tokens, found where the logits are: a sampler of libllama's kind that runs on the output's device
// (llama.h, "backend sampling"), so that these tokens and their logits cross the wire, and not those of the whole vocabulary.

#include "api.h"
#include "llama.h"

#include "ggml-backend.h"
#include "ggml.h"

#include <algorithm>
#include <cstdint>

namespace {

struct most_likely {
    int count;
};

most_likely & state_of(const llama_sampler * sampler) {
    return *static_cast<most_likely *>(sampler->ctx);
}

const char * name_of(const llama_sampler *) {
    return "most-likely";
}

// The chain that chooses runs on the host, over what this one has found.
void leave_to_host(llama_sampler *, llama_token_data_array *) {}

void release(llama_sampler * sampler) {
    delete &state_of(sampler);
}

struct found {
    ggml_tensor * tokens;
    ggml_tensor * logits;
};

found find(ggml_context * context, ggml_tensor * logits, int count) {
    const int64_t size = ggml_nelements(logits);
    ggml_tensor * flat = ggml_reshape_1d(context, logits, size);
    ggml_tensor * top  = ggml_top_k(context, flat, int(std::min<int64_t>(count, size)));
    ggml_tensor * rows = ggml_get_rows(context, ggml_reshape_2d(context, flat, 1, size), top);
    return {top, rows};
}

// Who makes a context with it has asked ls_candidates_supported.
bool init(llama_sampler *, ggml_backend_buffer_type_t, uint32_t) {
    return true;
}

void apply(llama_sampler * sampler, ggml_context * context, ggml_cgraph *, llama_sampler_data * data) {
    const found most = find(context, data->logits, state_of(sampler).count);
    data->candidates = most.tokens;
    data->logits     = most.logits;
}

llama_sampler_i interface_of() {
    llama_sampler_i functions = {};
    functions.name            = name_of;
    functions.apply           = leave_to_host;
    functions.free            = release;
    functions.backend_init    = init;
    functions.backend_apply   = apply;
    return functions;
}

llama_sampler_i g_interface = interface_of();

} // namespace

// Whether a device finds so many tokens of a vocabulary.
API int ls_candidates_supported(ggml_backend_dev_t device, int vocab_size, int count) {
    ggml_init_params params = {16 * ggml_tensor_overhead(), nullptr, true};
    ggml_context *   context = ggml_init(params);
    if (context == nullptr) return 0;
    const found most = find(context, ggml_new_tensor_1d(context, GGML_TYPE_F32, vocab_size), count);
    const bool  can  = ggml_backend_dev_supports_op(device, most.tokens) && ggml_backend_dev_supports_op(device, most.logits);
    ggml_free(context);
    return can ? 1 : 0;
}

// A chain for llama_set_sampler or the samplers of a context, which belongs to the caller; for one context, and once.
API llama_sampler * ls_candidates_new(int count) {
    llama_sampler_chain_params params = llama_sampler_chain_default_params();
    params.no_perf                    = true;
    llama_sampler * chain             = llama_sampler_chain_init(params);
    llama_sampler_chain_add(chain, llama_sampler_init(&g_interface, new most_likely{count}));
    return chain;
}
