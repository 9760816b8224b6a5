/**
 * ggml through bun:ffi: the functions by their C names, and small wrappers where a name or a number
 * needs converting. Synchronous, unchecked: `Ggml.ts` gives the scoped and typed face of this.
 */
import { dlopen, FFIType } from "bun:ffi"
import { type Address, asPointer, cString } from "./io.ts"
import { type LibrarySet, librarySet, shimLibrary } from "./libraries.ts"

const openGgml = (set: LibrarySet) => {
  const base = dlopen(set.ggmlBase, {
    ggml_type_size: { args: ["i32"], returns: FFIType.u64_fast },
    ggml_blck_size: { args: ["i32"], returns: FFIType.i64_fast },
    ggml_backend_dev_name: { args: ["ptr"], returns: "cstring" },
    ggml_backend_dev_description: { args: ["ptr"], returns: "cstring" },
    ggml_backend_dev_type: { args: ["ptr"], returns: "i32" },
    ggml_backend_dev_init: { args: ["ptr", "ptr"], returns: "ptr" },
    ggml_backend_dev_buffer_type: { args: ["ptr"], returns: "ptr" },
    ggml_backend_free: { args: ["ptr"], returns: "void" },
    ggml_backend_buft_name: { args: ["ptr"], returns: "cstring" },
    ggml_backend_buffer_is_host: { args: ["ptr"], returns: "bool" },
  }).symbols
  const registry = dlopen(set.ggml, {
    ggml_backend_dev_count: { args: [], returns: FFIType.u64_fast },
    ggml_backend_dev_get: { args: [FFIType.u64_fast], returns: "ptr" },
  }).symbols
  const shim = dlopen(shimLibrary(set.variant, "ggml"), {
    gs_install_log: { args: ["i32"], returns: "void" },
    gs_log_callback: { args: [], returns: "ptr" },
    gs_take_log: { args: ["ptr", "i32"], returns: "i32" },
    gs_load_backends: { args: ["ptr"], returns: "void" },
    gs_device_memory: { args: ["ptr", "ptr"], returns: "void" },
    gs_device_id: { args: ["ptr"], returns: "cstring" },
    gs_device_is_async: { args: ["ptr"], returns: "i32" },
    gs_backend_synchronize: { args: ["ptr"], returns: "i32" },
    gs_backend_set_threads: { args: ["ptr", "i32"], returns: "i32" },
    gs_backend_set_abort_flag: { args: ["ptr", "ptr"], returns: "i32" },
    gs_buffer_alloc: { args: ["ptr", "f64"], returns: "ptr" },
    gs_buffer_free: { args: ["ptr"], returns: "void" },
    gs_buffer_clear: { args: ["ptr", "i32"], returns: "void" },
    gs_buffer_size: { args: ["ptr"], returns: "f64" },
    gs_buffer_base: { args: ["ptr"], returns: "f64" },
    gs_buffer_tail: { args: ["ptr"], returns: "f64" },
    gs_buft_alignment: { args: ["ptr"], returns: "f64" },
    gs_buft_max_size: { args: ["ptr"], returns: "f64" },
    gs_buft_sizes_are_plain: { args: ["ptr"], returns: "i32" },
    gs_tensor_set: { args: ["ptr", "ptr", "f64", "f64"], returns: "void" },
    gs_tensor_get: { args: ["ptr", "ptr", "f64", "f64"], returns: "void" },
    gs_tensor_memset: { args: ["ptr", "i32", "f64", "f64"], returns: "void" },
    gs_tensor_copy: { args: ["ptr", "ptr"], returns: "i32" },
    gs_tensor_init: { args: ["ptr"], returns: "i32" },
    gs_tensor_alloc_size: { args: ["ptr", "ptr", "ptr"], returns: "f64" },
    gs_bf16_from_f32: { args: ["ptr", "ptr", "f64"], returns: "void" },
    gs_f32_from_bf16: { args: ["ptr", "ptr", "f64"], returns: "void" },
    gs_add_f32: { args: ["ptr", "ptr", "f64"], returns: "void" },
    gs_add_bf16: { args: ["ptr", "ptr", "f64"], returns: "void" },
    gs_rows_top: { args: ["ptr", "f64", "i32", "i32", "ptr"], returns: "void" },
    gs_add_parts: { args: ["ptr", "i32", "f64", "i32"], returns: "void" },
    gs_graph_build: { args: ["ptr", "i32", "ptr", "i32"], returns: "ptr" },
    gs_graph_unsupported: { args: ["ptr", "ptr"], returns: "i32" },
    gs_graph_supports: { args: ["ptr", "ptr", "ptr"], returns: "void" },
    gs_graph_repack: { args: ["ptr"], returns: "i32" },
    gs_graph_settle: { args: ["ptr"], returns: "i32" },
    gs_repack_types: { args: ["ptr", "i32"], returns: "i32" },
    gs_repack_original: { args: ["ptr", "f64", "f64"], returns: "void" },
    gs_repack_forget: { args: ["ptr"], returns: "void" },
    gs_graph_check_indices: { args: ["ptr", "ptr", "i32", "i32"], returns: "i32" },
    gs_graph_bad_index: { args: ["ptr", "ptr"], returns: "void" },
    gs_graph_compute: { args: ["ptr", "ptr", "i32"], returns: "i32" },
    gs_graph_free: { args: ["ptr"], returns: "void" },
    gs_remote_set_callbacks: { args: ["ptr"], returns: "void" },
    gs_remote_dead_buffers: { args: ["i32"], returns: "void" },
    gs_remote_exchange: { args: [], returns: "ptr" },
    gs_remote_exchange_size: { args: [], returns: "i32" },
    gs_remote_device_new: {
      args: ["i32", "i32", "ptr", "ptr", "f64", "f64", "i32", "i32"],
      returns: "ptr",
    },
    gs_remote_device_set_dialect: { args: ["ptr", "ptr", "ptr", "ptr"], returns: "void" },
    gs_remote_device_carry_bf16: { args: ["ptr", "f64"], returns: "void" },
    gs_remote_support_enable: { args: ["ptr", "i32"], returns: "void" },
    gs_remote_support_measure: { args: ["ptr", "i32"], returns: "void" },
    gs_remote_support_measured: { args: ["ptr", "ptr"], returns: "void" },
    gs_remote_support_questions: { args: ["ptr", "ptr"], returns: "void" },
    gs_remote_support_answer: { args: ["ptr", "ptr"], returns: "i32" },
    gs_remote_coming_weights: { args: [], returns: "i32" },
    gs_remote_coming_weight: { args: ["i32"], returns: "i32" },
    gs_remote_find: { args: ["ptr", "i32", "i32"], returns: "void" },
    gs_found_rows_size: { args: [], returns: "i32" },
    gs_remote_device_free: { args: ["ptr"], returns: "void" },
    gs_graph_flatten: { args: ["ptr", "ptr", "ptr"], returns: "i32" },
    gs_flat_nodes: { args: [], returns: "ptr" },
    gs_flat_records: { args: [], returns: "ptr" },
  }).symbols
  return { ...base, ...registry, ...shim, set }
}

let opened: ReturnType<typeof openGgml> | undefined

/** ggml's and the shim's functions by their C names, opened at the first use. */
export const ggml = (): ReturnType<typeof openGgml> => {
  opened ??= openGgml(librarySet())
  return opened
}

let commit: string | undefined

/** What the set's ggml says that it was built from: an abbreviated commit. The shim is not needed for it. */
export const buildCommit = (): string => {
  commit ??= String(
    dlopen(librarySet().ggmlBase, {
      ggml_commit: { args: [], returns: "cstring" },
    }).symbols.ggml_commit(),
  )
  return commit
}

let loaded = false

/**
 * Loads every backend of the set, once a process, and starts capturing ggml's log.
 *
 * @param echoLevel log messages of at least this level also go to stderr: 1 debug, 2 info, 3 warn,
 *   4 error, 0 none; not given, an earlier call's level stays
 */
export const loadBackends = (echoLevel?: number): void => {
  const symbols = ggml()
  if (echoLevel !== undefined || !loaded) symbols.gs_install_log(echoLevel ?? 0)
  if (loaded) return
  loaded = true
  symbols.gs_load_backends(cString(symbols.set.dir))
}

const logBlock = new Uint8Array(64 * 1024)

/** Warnings and errors that ggml and llama logged since the last call, newest last. */
export const takeLog = (): string => {
  const size = ggml().gs_take_log(logBlock, logBlock.length)
  return new TextDecoder().decode(logBlock.subarray(0, size)).trim()
}

/** ggml_backend_dev_type, by number. */
export const deviceTypes = ["CPU", "GPU", "IGPU", "ACCEL", "META"] as const

export type DeviceType = (typeof deviceTypes)[number]

/** A ggml device of this process. */
export interface Device {
  readonly address: Address
  /** Short name such as `CPU` or `CUDA0`; what `--device` takes. */
  readonly name: string
  /** Such as the model of the processor. */
  readonly description: string
  readonly type: DeviceType
}

/** The devices of all loaded backends, in ggml's order. */
export const listDevices = (): ReadonlyArray<Device> => {
  const symbols = ggml()
  const count = Number(symbols.ggml_backend_dev_count())
  return Array.from({ length: count }, (_, index) => {
    const address = symbols.ggml_backend_dev_get(index) as Address
    return {
      address,
      name: String(symbols.ggml_backend_dev_name(asPointer(address))),
      description: String(symbols.ggml_backend_dev_description(asPointer(address))).trim(),
      type: deviceTypes[symbols.ggml_backend_dev_type(asPointer(address))] ?? "ACCEL",
    }
  })
}

const MAX_REPACKED_TYPES = 64

/** Types of ggml of which weights on this CPU have a faster layout; shim/ggml/repack.h. Found at the first call. */
export const repackedTypes = (): readonly number[] => {
  const types = new Int32Array(MAX_REPACKED_TYPES)
  return [...types.subarray(0, ggml().gs_repack_types(types, types.length))]
}
