/**
 * Command ids; ggml-rpc.cpp `rpc_cmd`. No version ever renumbered one, so a single table serves all of them; which
 * commands exist in a version is in its `ProtocolSpec`.
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
  /** A queue marker inside upstream's client; never on the wire, and an error if it is. */
  NONE: 18,
} as const

export type CommandName = keyof typeof Command
export type CommandId = (typeof Command)[CommandName]

/** The commands that travel: all but `NONE`. */
export type MessageName = Exclude<CommandName, "NONE">
export type MessageId = (typeof Command)[MessageName]

/** The name of a command id, as a type. */
export type NameOf<C extends CommandId> = {
  [N in CommandName]: (typeof Command)[N] extends C ? N : never
}[CommandName]

const names: readonly CommandName[] = Object.keys(Command) as CommandName[]

/** `commandName(6)` is `"SET_TENSOR"`; an id without a name gives `undefined`. */
export const commandName = (id: number): CommandName | undefined => names[id]

/** Whether `id` is a command that may be sent (0 … 17). */
export const isMessageId = (id: number): id is MessageId =>
  Number.isInteger(id) && id >= 0 && id < Command.NONE

/** For messages to people: the name, or the number when there is none. */
export const describeCommand = (id: number): string => names[id] ?? `command ${id}`
