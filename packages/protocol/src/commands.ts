import { extensionName } from "./extension.ts"

/**
 * Command ids; ggml-rpc.cpp `rpc_cmd` (8.0.0). No version ever renumbered one, so a single table serves all of them; which
 * commands exist in a version is in its `ProtocolSpec`. Upstream's `NONE`, a queue marker inside its client, never
 * travels and is left out: it was 18, and is 23 since 8.0.0.
 */
export const Command = {
  ALLOC_BUFFER: 0,
  GET_ALIGNMENT: 1,
  GET_MAX_SIZE: 2,
  BUFFER_GET_BASE: 3,
  FREE_BUFFER: 4,
  BUFFER_CLEAR: 5,
  SET_TENSOR: 6,
  SET_TENSOR_HASH: 7,
  GET_TENSOR: 8,
  COPY_TENSOR: 9,
  GRAPH_COMPUTE: 10,
  GET_DEVICE_MEMORY: 11,
  INIT_TENSOR: 12,
  GET_ALLOC_SIZE: 13,
  HELLO: 14,
  DEVICE_COUNT: 15,
  GRAPH_RECOMPUTE: 16,
  MEMSET_TENSOR: 17,
  SET_TENSOR_2D: 18,
  GET_TENSOR_2D: 19,
  COMM_INIT: 20,
  COMM_ALLREDUCE: 21,
  COMM_FREE: 22,
} as const

/** The commands by name. */
export type MessageName = keyof typeof Command
export type MessageId = (typeof Command)[MessageName]

/** The name of a command id, as a type. */
export type NameOf<C extends MessageId> = {
  [N in MessageName]: (typeof Command)[N] extends C ? N : never
}[MessageName]

const names: readonly MessageName[] = Object.keys(Command) as MessageName[]

/** How many ids of upstream's there are: all below it have a name. */
export const COMMAND_COUNT: number = names.length

/** `commandName(6)` is `"SET_TENSOR"`; an id without a name gives `undefined`. */
export const commandName = (id: number): MessageName | undefined => names[id]

/** For messages to people: the name, of an extension command too, or the number when there is none. */
export const describeCommand = (id: number): string =>
  names[id] ?? extensionName(id) ?? `command ${id}`
