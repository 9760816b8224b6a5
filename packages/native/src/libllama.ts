/**
 * libllama through bun:ffi: the functions by their C names. Synchronous, unchecked: `Llama.ts` gives
 * the scoped and typed face of this.
 */
import { dlopen, FFIType } from "bun:ffi"
import { ggml, loadBackends } from "./libggml.ts"
import { type LibrarySet, librarySet, shimLibrary } from "./libraries.ts"

const openLlama = (set: LibrarySet) => {
  const library = dlopen(set.llama, {
    llama_max_devices: { args: [], returns: FFIType.u64_fast },
    llama_adapter_lora_init: { args: ["ptr", "ptr"], returns: "ptr" },
    llama_set_adapters_lora: { args: ["ptr", "ptr", FFIType.u64_fast, "ptr"], returns: "i32" },
    llama_model_free: { args: ["ptr"], returns: "void" },
    llama_free: { args: ["ptr"], returns: "void" },
    llama_synchronize: { args: ["ptr"], returns: "void" },
    llama_set_sampler: { args: ["ptr", "i32", "ptr"], returns: "bool" },
    llama_n_ctx: { args: ["ptr"], returns: "u32" },
    llama_n_batch: { args: ["ptr"], returns: "u32" },
    llama_n_ubatch: { args: ["ptr"], returns: "u32" },
    llama_pooling_type: { args: ["ptr"], returns: "i32" },
    llama_get_memory: { args: ["ptr"], returns: "ptr" },
    llama_memory_clear: { args: ["ptr", "bool"], returns: "void" },
    llama_memory_seq_rm: { args: ["ptr", "i32", "i32", "i32"], returns: "bool" },
    llama_memory_seq_cp: { args: ["ptr", "i32", "i32", "i32", "i32"], returns: "void" },
    llama_memory_seq_add: { args: ["ptr", "i32", "i32", "i32", "i32"], returns: "void" },
    llama_memory_seq_pos_min: { args: ["ptr", "i32"], returns: "i32" },
    llama_memory_can_shift: { args: ["ptr"], returns: "bool" },
    llama_state_seq_save_file: {
      args: ["ptr", "ptr", "i32", "ptr", FFIType.u64_fast],
      returns: FFIType.u64_fast,
    },
    llama_state_seq_load_file: {
      args: ["ptr", "ptr", "i32", "ptr", FFIType.u64_fast, "ptr"],
      returns: FFIType.u64_fast,
    },
    llama_model_n_swa: { args: ["ptr"], returns: "i32" },
    llama_model_get_vocab: { args: ["ptr"], returns: "ptr" },
    llama_model_n_ctx_train: { args: ["ptr"], returns: "i32" },
    llama_model_n_embd: { args: ["ptr"], returns: "i32" },
    llama_model_n_embd_out: { args: ["ptr"], returns: "i32" },
    llama_model_n_layer: { args: ["ptr"], returns: "i32" },
    llama_model_n_layer_nextn: { args: ["ptr"], returns: "i32" },
    llama_model_n_cls_out: { args: ["ptr"], returns: "u32" },
    llama_model_desc: { args: ["ptr", "ptr", FFIType.u64_fast], returns: "i32" },
    llama_model_meta_val_str: { args: ["ptr", "ptr", "ptr", FFIType.u64_fast], returns: "i32" },
    llama_model_has_encoder: { args: ["ptr"], returns: "bool" },
    llama_model_has_decoder: { args: ["ptr"], returns: "bool" },
    llama_model_decoder_start_token: { args: ["ptr"], returns: "i32" },
    llama_model_is_recurrent: { args: ["ptr"], returns: "bool" },
    llama_model_is_hybrid: { args: ["ptr"], returns: "bool" },
    llama_model_is_diffusion: { args: ["ptr"], returns: "bool" },
    llama_vocab_type: { args: ["ptr"], returns: "i32" },
    llama_vocab_n_tokens: { args: ["ptr"], returns: "i32" },
    llama_vocab_bos: { args: ["ptr"], returns: "i32" },
    llama_vocab_eos: { args: ["ptr"], returns: "i32" },
    llama_vocab_is_eog: { args: ["ptr", "i32"], returns: "bool" },
    llama_vocab_get_add_bos: { args: ["ptr"], returns: "bool" },
    llama_vocab_get_suppress_tokens: { args: ["ptr", "ptr"], returns: "ptr" },
    llama_token_to_piece: {
      args: ["ptr", "i32", "ptr", "i32", "i32", "bool"],
      returns: "i32",
    },
    llama_get_logits_ith: { args: ["ptr", "i32"], returns: "ptr" },
    llama_get_embeddings_ith: { args: ["ptr", "i32"], returns: "ptr" },
    llama_get_embeddings_seq: { args: ["ptr", "i32"], returns: "ptr" },
    llama_sampler_chain_add: { args: ["ptr", "ptr"], returns: "void" },
    llama_sampler_init_typical: { args: ["f32", FFIType.u64_fast], returns: "ptr" },
    llama_sampler_init_top_n_sigma: { args: ["f32"], returns: "ptr" },
    llama_sampler_init_xtc: { args: ["f32", "f32", FFIType.u64_fast, "u32"], returns: "ptr" },
    llama_sampler_init_temp_ext: { args: ["f32", "f32", "f32"], returns: "ptr" },
    llama_sampler_init_mirostat: { args: ["i32", "u32", "f32", "f32", "i32"], returns: "ptr" },
    llama_sampler_init_mirostat_v2: { args: ["u32", "f32", "f32"], returns: "ptr" },
    llama_sampler_init_adaptive_p: { args: ["f32", "f32", "u32"], returns: "ptr" },
    llama_sampler_init_infill: { args: ["ptr"], returns: "ptr" },
    llama_sampler_init_grammar: { args: ["ptr", "ptr", "ptr"], returns: "ptr" },
    llama_sampler_init_dry: {
      args: ["ptr", "f32", "f32", "i32", "i32", "ptr", FFIType.u64_fast],
      returns: "ptr",
    },
    llama_sampler_init_greedy: { args: [], returns: "ptr" },
    llama_sampler_init_dist: { args: ["u32"], returns: "ptr" },
    llama_sampler_init_top_k: { args: ["i32"], returns: "ptr" },
    llama_sampler_init_top_p: { args: ["f32", FFIType.u64_fast], returns: "ptr" },
    llama_sampler_init_min_p: { args: ["f32", FFIType.u64_fast], returns: "ptr" },
    llama_sampler_init_temp: { args: ["f32"], returns: "ptr" },
    llama_sampler_init_penalties: { args: ["i32", "i32", "f32", "f32", "f32"], returns: "ptr" },
    llama_sampler_init_logit_bias: { args: ["i32", "i32", "ptr"], returns: "ptr" },
    llama_sampler_accept: { args: ["ptr", "i32"], returns: "void" },
    llama_sampler_reset: { args: ["ptr"], returns: "void" },
    llama_sampler_free: { args: ["ptr"], returns: "void" },
  }).symbols
  const shim = dlopen(shimLibrary(set.variant, "llama"), {
    ls_last_error: { args: [], returns: "cstring" },
    ls_init: { args: ["ptr"], returns: "void" },
    ls_model_load: { args: ["ptr", "ptr"], returns: "ptr" },
    ls_context_new: { args: ["ptr", "ptr"], returns: "ptr" },
    ls_memory_breakdown: { args: ["ptr", "ptr", "i32", "ptr", "i32"], returns: "i32" },
    ls_graph_survey: { args: ["ptr", "ptr", "i32", "ptr", "ptr", "i32"], returns: "i32" },
    ls_decode: { args: ["ptr", "ptr", "i32", "i32", "i32"], returns: "i32" },
    ls_decode_batch: { args: ["ptr", "ptr", "ptr", "ptr", "ptr", "i32"], returns: "i32" },
    ls_logprobs: { args: ["ptr", "i32", "i32", "i32", "ptr", "ptr"], returns: "i32" },
    ls_encode: { args: ["ptr", "ptr", "i32", "i32", "i32"], returns: "i32" },
    ls_tokenize: {
      args: ["ptr", "ptr", "i32", "ptr", "i32", "bool", "bool"],
      returns: "i32",
    },
    ls_candidates_supported: { args: ["ptr", "i32", "i32"], returns: "i32" },
    ls_candidates_new: { args: ["i32"], returns: "ptr" },
    ls_sample: { args: ["ptr", "ptr", "ptr", "i32", "ptr"], returns: "i32" },
    ls_sampler_chain_new: { args: [], returns: "ptr" },
    ls_model_size: { args: ["ptr"], returns: "f64" },
    ls_model_parameter_count: { args: ["ptr"], returns: "f64" },
  }).symbols
  return { ...library, ...shim }
}

let opened: ReturnType<typeof openLlama> | undefined

/** libllama's and the shim's functions by their C names; the first use loads the backends too. */
export const llama = (): ReturnType<typeof openLlama> => {
  if (opened === undefined) {
    loadBackends()
    opened = openLlama(librarySet())
    opened.ls_init(ggml().gs_log_callback())
  }
  return opened
}
