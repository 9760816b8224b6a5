/**
 * Blocking socket and descriptor calls, for processes that run one synchronous loop. Loads no ggml.
 *
 * Functions that can fail return a negative errno, as the shim does: the callers are hot loops that
 * turn it into a typed error once, where they know the endpoint.
 */
import { dlopen, type Pointer } from "bun:ffi"
import { librarySet, shimLibrary } from "./libraries.ts"

/** A native address. */
export type Address = number

const open = () =>
  dlopen(shimLibrary(librarySet().variant, "io"), {
    io_tune_socket: { args: ["i32", "i32"], returns: "i32" },
    io_connect: { args: ["ptr", "i32", "f64"], returns: "i32" },
    io_recv: { args: ["i32", "ptr", "f64"], returns: "f64" },
    io_recv_exact: { args: ["i32", "ptr", "f64"], returns: "f64" },
    io_read_file: { args: ["i32", "ptr", "f64", "f64"], returns: "f64" },
    io_enlarge_page: { args: ["ptr", "f64"], returns: "i32" },
    io_map_file: { args: ["i32", "ptr", "f64", "f64"], returns: "f64" },
    io_hash: { args: ["i32", "ptr", "ptr", "ptr"], returns: "void" },
    io_hash_files: { args: ["i32", "ptr", "ptr", "ptr"], returns: "i32" },
    io_hash_beside: {
      args: ["i32", "ptr", "ptr", "ptr", "i32", "i32", "ptr"],
      returns: "i32",
    },
    io_is_hashing: { args: [], returns: "i32" },
    io_stop_hashing: { args: [], returns: "void" },
    io_send: { args: ["i32", "ptr", "f64"], returns: "f64" },
    io_send2: { args: ["i32", "ptr", "f64", "ptr", "f64"], returns: "f64" },
    io_send2_now: { args: ["i32", "ptr", "f64", "ptr", "f64"], returns: "f64" },
    io_recv2: { args: ["i32", "ptr", "f64", "ptr", "f64", "i32"], returns: "f64" },
    io_poll: { args: ["ptr", "i32", "f64"], returns: "i32" },
    io_copy: { args: ["ptr", "f64", "ptr", "f64"], returns: "void" },
    io_copy_rows: { args: ["ptr", "ptr", "f64", "f64", "f64"], returns: "void" },
    io_wait_readable: { args: ["i32", "f64"], returns: "i32" },
    io_shutdown: { args: ["i32"], returns: "i32" },
    io_unacknowledged: { args: ["i32"], returns: "i32" },
    io_close: { args: ["i32"], returns: "i32" },
    io_lock: { args: ["i32", "f64"], returns: "i32" },
    io_unlock: { args: ["i32"], returns: "i32" },
    io_duplicate: { args: ["i32"], returns: "i32" },
    io_socketpair: { args: ["ptr"], returns: "i32" },
    io_memory_file: { args: ["ptr", "f64"], returns: "i32" },
    io_send_connection: { args: ["i32", "i32", "i32", "ptr", "f64", "i32"], returns: "i32" },
    io_receive_connection: { args: ["i32", "ptr", "f64", "ptr"], returns: "i32" },
    io_receive_note: { args: ["i32", "i32", "f64", "ptr", "f64", "ptr"], returns: "i32" },
    io_group_new: { args: ["i32", "i32", "f64"], returns: "ptr" },
    io_group_link: { args: ["ptr", "i32", "i32"], returns: "void" },
    io_group_free: { args: ["ptr"], returns: "void" },
    io_group_spins: { args: ["ptr", "ptr"], returns: "void" },
    io_all_reduce_bytes: { args: ["ptr", "i32", "i32", "f64"], returns: "f64" },
    io_all_reduce: {
      args: ["ptr", "ptr", "ptr", "i32", "f64", "i32", "i32", "i32", "f64", "ptr"],
      returns: "i32",
    },
    io_peer_gone: { args: ["i32"], returns: "i32" },
    io_watch_parent: { args: ["i32"], returns: "i32" },
    io_watch_client: { args: ["i32"], returns: "void" },
    io_limit_compute: { args: ["f64"], returns: "void" },
    io_compute_begins: { args: [], returns: "void" },
    io_compute_ends: { args: [], returns: "i32" },
    io_reserve_memory: { args: ["f64"], returns: "ptr" },
    io_release_memory: { args: ["ptr", "f64"], returns: "void" },
    io_map_page: { args: ["i32", "f64"], returns: "ptr" },
    io_watch_server: { args: ["i32"], returns: "void" },
    io_unwatch_server: { args: ["i32"], returns: "i32" },
    io_abort_flag: { args: [], returns: "ptr" },
    io_abort_requested: { args: [], returns: "i32" },
    io_map_cancels: { args: ["i32"], returns: "i32" },
    io_set_running: { args: ["u32"], returns: "void" },
    io_is_cancelled: { args: ["u32"], returns: "i32" },
    io_ignore_signals: { args: [], returns: "void" },
    io_clear_abort: { args: [], returns: "void" },
    io_raise_abort: { args: [], returns: "void" },
    io_expect_crash: { args: [], returns: "void" },
    io_lower_priority: { args: ["i32"], returns: "i32" },
    io_thread_cpu_ms: { args: [], returns: "f64" },
    io_descriptor_limit: { args: [], returns: "f64" },
    io_limit_memory: { args: ["f64", "f64"], returns: "i32" },
    io_landlock_abi: { args: [], returns: "i32" },
    io_landlock_new: { args: ["i32"], returns: "i32" },
    io_landlock_allow: { args: ["i32", "ptr", "i32"], returns: "i32" },
    io_confine_threads: { args: ["i32"], returns: "i32" },
    io_forbid_calls: { args: ["i32"], returns: "i32" },
    io_exit: { args: ["i32"], returns: "void" },
    io_set_receive_timeout: { args: ["i32", "f64"], returns: "i32" },
    io_set_silence_limit: { args: ["i32", "f64"], returns: "i32" },
    io_set_send_timeout: { args: ["i32", "f64"], returns: "i32" },
    io_listen_beside: { args: ["i32", "i32"], returns: "i32" },
    io_accept: { args: ["i32", "f64"], returns: "i32" },
    io_peer_address: { args: ["i32", "ptr", "i32"], returns: "void" },
    io_error_text: { args: ["i32"], returns: "cstring" },
  }).symbols

let symbols: ReturnType<typeof open> | undefined

/** The shim's functions by their C names, opened at the first use. */
export const io = (): ReturnType<typeof open> => {
  symbols ??= open()
  return symbols
}

/** A NUL-terminated copy of `text` for a C string argument; keep it alive during the call. */
export const cString = (text: string): Uint8Array => new TextEncoder().encode(`${text}\0`)

/** bun:ffi types addresses as an opaque number; these are plain ones. */
export const asPointer = (address: Address): Pointer => address as Pointer

/** The system's text for a negative result of an io function. */
export const ioErrorText = (result: number): string => String(io().io_error_text(result))

/** errno values whose meaning a caller acts on, as the negative results that the functions give. */
export const errno = {
  connectionRefused: process.platform === "darwin" ? -61 : -111,
  timedOut: process.platform === "darwin" ? -60 : -110,
  again: process.platform === "darwin" ? -35 : -11,
  hostUnreachable: process.platform === "darwin" ? -65 : -113,
  networkUnreachable: process.platform === "darwin" ? -51 : -101,
  cancelled: process.platform === "darwin" ? -89 : -125,
  brokenPipe: -32,
  protocol: process.platform === "darwin" ? -100 : -71,
} as const

/** A connected pair of local stream sockets. */
export const socketPair = (): readonly [number, number] => {
  const out = new Int32Array(2)
  const result = io().io_socketpair(out)
  if (result < 0) throw new Error(`socketpair: ${ioErrorText(result)}`)
  return [out[0]!, out[1]!]
}
