/**
 * One case of the fuzzer: a graph with its tensors, where each lies and what it holds. Made from a valid node, a number
 * and a seed alone, so that the process that looks on makes the same one as the process that ran it.
 */
import { type RpcTensor, TYPE_BLOCK_SIZE, TYPE_SIZE, types } from "@ggml-rpc/protocol"
import { newestOpId } from "../../packages/server/test/TestClient.ts"
import { tensorsOf, type ValidNode } from "../../packages/server/test/validNodes.ts"

type Writable<A> = A extends readonly (infer E)[]
  ? E[]
  : { -readonly [K in keyof A]: A[K] extends readonly (infer E)[] ? E[] : A[K] }

export type Contents =
  /** Numbers that fit any operation: small, and 0 and 1 where they are integers. */
  | "plain"
  /** Also infinities, no numbers, and what is too large or too small. */
  | "odd"

/** An element that is set apart. */
export interface Element {
  readonly index: number
  readonly value: bigint
}

export interface CaseTensor {
  /** `buffer` and `data` are left out: see the fields below. */
  readonly record: Writable<RpcTensor>
  /** Which of the case's memories it lies in: its own index, unless it is aliased. */
  memory: number
  /** Bytes behind the start of that memory. */
  offsetBytes: number
  contents: Contents
  elements: Element[]
  /** Whether the operation writes it. */
  isWritten: boolean
}

/** Where in its pages a tensor's memory lies. */
export type Placing =
  /** Its last byte is the last before the guard. */
  | "end"
  /** The same, as near as 32 bytes of alignment allow. */
  | "aligned end"
  /** Its first byte is the first after the guard. */
  | "start"

export interface NodeCase {
  readonly op: string
  readonly tensors: CaseTensor[]
  /** Indexes of the tensors that are computed, in order. */
  readonly nodes: number[]
  placing: Placing
  /** What was changed, such as `src[0].nb[1]`; the first part of each. */
  readonly fields: string[]
  /** The same with the values. */
  readonly changes: string[]
}

/** Sources that an operation writes besides its result. */
const writtenSources: Readonly<Record<string, readonly number[]>> = {
  OPT_STEP_ADAMW: [0, 2, 3],
  OPT_STEP_SGD: [0],
}

/** Whether an operation writes one of its sources. */
export const writesSource = (op: number, slot: number): boolean =>
  Object.entries(writtenSources).some(
    ([name, slots]) => newestOpId(name) === op && slots.includes(slot),
  )

const nowhere = { remotePtr: 0n, basePtr: 0n }

/** A valid node as it is. */
export const controlCase = (node: ValidNode): NodeCase => {
  const records = tensorsOf(node, nowhere) as Writable<RpcTensor>[]
  const result = records.length - 1
  const written = [result, ...(writtenSources[node.op] ?? [])]
  return {
    op: node.op,
    tensors: records.map((record, index) => ({
      record: {
        ...record,
        ne: [...record.ne],
        nb: [...record.nb],
        opParams: [...record.opParams],
        src: [...record.src],
      },
      memory: index === result ? (node.over ?? index) : index,
      offsetBytes: 0,
      contents: "plain",
      elements: [],
      isWritten: written.includes(index),
    })),
    nodes: [result],
    placing: "end",
    fields: [],
    changes: [],
  }
}

/** The tensors of `second` behind those of `first`, which are computed before. */
export const joined = (first: NodeCase, second: NodeCase): NodeCase => {
  const shift = first.tensors.length
  const moved = second.tensors.map((tensor) => ({
    ...tensor,
    memory: tensor.memory + shift,
    record: {
      ...tensor.record,
      id: tensor.record.id + BigInt(shift),
      src: tensor.record.src.map((id) => (id === 0n ? 0n : id + BigInt(shift))),
      viewSrc: tensor.record.viewSrc === 0n ? 0n : tensor.record.viewSrc + BigInt(shift),
    },
  }))
  return {
    ...first,
    op: `${first.op}+${second.op}`,
    tensors: [...first.tensors, ...moved],
    nodes: [...first.nodes, ...second.nodes.map((index) => index + shift)],
  }
}

/** Gives a tensor the strides of one that lies densely in memory. */
export const makeDense = ({ type, ne, nb }: Writable<RpcTensor>): void => {
  const typeSize = TYPE_SIZE[type] ?? 0
  nb[0] = typeSize
  nb[1] = Math.floor((ne[0]! / (TYPE_BLOCK_SIZE[type] || 1)) * typeSize) >>> 0
  nb[2] = (nb[1]! * ne[1]!) >>> 0
  nb[3] = (nb[2]! * ne[2]!) >>> 0
}

/** `src[0]`, `result`; in a graph of several nodes, or of a source that was taken away, the number of the tensor. */
export const tensorName = ({ tensors, nodes }: NodeCase, index: number): string => {
  if (nodes.length > 1) return `tensor[${index}]`
  if (index === tensors.length - 1) return "result"
  const slot = tensors.at(-1)!.record.src.indexOf(BigInt(index + 1))
  return slot < 0 ? `tensor[${index}]` : `src[${slot}]`
}

const typeName = (id: number): string => types.find((type) => type.id === id)?.name ?? `type ${id}`

const floatWords = new Float32Array(1)
const intWords = new Int32Array(floatWords.buffer)

/** A parameter as an integer, and as a float where it looks like one. */
const paramText = (value: number): string => {
  intWords[0] = value
  const isSmall = Math.abs(value) < 1_000_000
  return isSmall ? `${value}` : `${value}=${floatWords[0]}f`
}

const describeTensor = (nodeCase: NodeCase, index: number): string => {
  const { record, memory, offsetBytes, contents, elements } = nodeCase.tensors[index]!
  const words = [typeName(record.type), `ne[${record.ne}]`, `nb[${record.nb}]`]
  if (memory !== index) words.push(`in the memory of ${tensorName(nodeCase, memory)}`)
  if (offsetBytes !== 0) words.push(`at +${offsetBytes}`)
  if (record.viewSrc !== 0n) {
    words.push(`view of ${Number(record.viewSrc) - 1} +${record.viewOffset}`)
  }
  if (contents === "odd") words.push("odd contents")
  for (const { index: at, value } of elements.slice(0, 4)) words.push(`[${at}]=${value}`)
  return `${tensorName(nodeCase, index)} ${words.join(" ")}`
}

/** The case in a line: operation, parameters, tensors, and what was changed in it. */
export const describeCase = (nodeCase: NodeCase): string => {
  const { tensors, nodes, changes, placing } = nodeCase
  const parts = tensors.map((_, index) => describeTensor(nodeCase, index))
  for (const index of nodes) {
    const { op, opParams, flags, src } = tensors[index]!.record
    const last = opParams.findLastIndex((value) => value !== 0)
    const params = opParams.slice(0, last + 1).map(paramText)
    const names = src.map((id) => (id === 0n ? "-" : tensorName(nodeCase, Number(id) - 1)))
    while (names.at(-1) === "-") names.pop()
    parts.push(`${opName(op)}(${names}) params[${params}] flags ${flags}`)
  }
  return `${changes.join(", ") || "as ggml builds it"} (${placing}): ${parts.join("; ")}`
}

const opNames = new Map<number, string>()

const opName = (op: number): string => opNames.get(op) ?? `op ${op}`

/** Names that {@link describeCase} knows. */
export const nameOperations = (names: readonly string[]): void => {
  for (const name of names) opNames.set(newestOpId(name), name)
}
