/** What is said of memory that several devices draw from. */
import type { SharedMemory } from "@ggml-rpc/client"
import { formatBytes } from "@ggml-rpc/native/bindings"

/** `RPC0, RPC1 and this host`. */
export const listed = (names: ReadonlyArray<string>): string =>
  names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`

/** A line, without a full stop. */
export const describeShared = ({ devices, hasHost, freeBytes }: SharedMemory): string =>
  `${listed(hasHost ? [...devices, "this host"] : devices)} share one memory: its ${formatBytes(freeBytes)} free are counted once`
