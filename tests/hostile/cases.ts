/** The cases of a run, by number: the same number and seed make the same case. */
import { Random } from "../../packages/server/test/Random.ts"
import { newestOpId, sources } from "../../packages/server/test/TestClient.ts"
import { type ValidNode, validNodes } from "../../packages/server/test/validNodes.ts"
import { mutate } from "./mutations.ts"
import { controlCase, joined, type NodeCase, nameOperations } from "./nodeCase.ts"
import { variants } from "./variants.ts"

nameOperations([...validNodes.map(({ op }) => op), "VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"])

/** Every so many cases one is a graph of several nodes. */
const GRAPH_EVERY = 10

/** What a run is made of. */
export interface CaseSource {
  readonly seed: number
  /** Operations to try; all when empty. */
  readonly ops: readonly string[]
  /** Whether there are graphs of several nodes. */
  readonly graphs: boolean
}

/** The cases of a run, by number. */
export class Cases {
  readonly #source: CaseSource
  readonly #nodes: readonly ValidNode[]
  readonly #nodesByOp: readonly (readonly ValidNode[])[]
  /** The operations that are tried. */
  readonly ops: readonly string[]

  constructor(source: CaseSource) {
    const all = [...validNodes, ...variants]
    const { ops } = source
    this.#source = source
    this.#nodes = ops.length === 0 ? all : all.filter(({ op }) => ops.includes(op))
    this.ops = [...new Set(this.#nodes.map(({ op }) => op))]
    this.#nodesByOp = this.ops.map((op) => this.#nodes.filter((node) => node.op === op))
  }

  /** The first cases are valid nodes as they are; all further ones are changed. */
  get controlCount(): number {
    return this.#nodes.length
  }

  /** Index of the operation that a case's first node has. */
  opIndex(number: number): number {
    if (number >= this.controlCount) return number % this.ops.length
    return this.ops.indexOf(this.#nodes[number]!.op)
  }

  at(number: number): NodeCase {
    if (number < this.controlCount) return controlCase(this.#nodes[number]!)
    const { seed, graphs } = this.#source
    const random = new Random(Math.imul(seed, 0x9e37_79b1) ^ Math.imul(number, 0x85eb_ca6b))
    const node = random.pick(this.#nodesByOp[this.opIndex(number)]!)
    const isGraph = graphs && random.below(GRAPH_EVERY) === 0
    return mutate(random, isGraph ? chain(random, node, this.#nodes) : controlCase(node))
  }
}

const sameShape = (nodeCase: NodeCase, first: number, second: number): boolean => {
  const [one, other] = [nodeCase.tensors[first]!.record, nodeCase.tensors[second]!.record]
  return one.type === other.type && Bun.deepEquals(one.ne, other.ne)
}

/** Two or three nodes, where a later one reads what an earlier one computed, or a view of it, or lies in the same memory. */
const chain = (random: Random, node: ValidNode, nodes: readonly ValidNode[]): NodeCase => {
  let nodeCase = controlCase(node)
  for (let count = 1 + random.below(2); count > 0; count--) {
    const computed = nodeCase.nodes.at(-1)!
    let earlier = computed
    for (let views = random.below(3); views > 0; views--) earlier = addView(nodeCase, earlier)
    const start = nodeCase.tensors.length
    nodeCase = joined(nodeCase, controlCase(random.pick(nodes)))
    attach(random, nodeCase, start, earlier, nodeCase.tensors[computed]!.memory)
  }
  return nodeCase
}

const viewOps = ["VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"]

/** A node that is all of an earlier tensor, for mutations to make less of; returns its index. */
const addView = ({ tensors, nodes }: NodeCase, viewed: number): number => {
  const { record, memory } = tensors[viewed]!
  const index = tensors.length
  tensors.push({
    ...tensors[viewed]!,
    record: {
      ...record,
      id: BigInt(index + 1),
      ne: [...record.ne],
      nb: [...record.nb],
      opParams: [...record.opParams],
      op: newestOpId(viewOps[index % viewOps.length]!),
      src: sources(viewed + 1),
      viewSrc: BigInt(viewed + 1),
    },
    memory,
    elements: [],
    isWritten: false,
  })
  nodes.push(index)
  return index
}

/** Has the last node, whose tensors begin at `start`, read an earlier tensor, or at least lie in its memory. */
const attach = (
  random: Random,
  nodeCase: NodeCase,
  start: number,
  earlier: number,
  memory: number,
): void => {
  const { tensors } = nodeCase
  const node = tensors.length - 1
  const inputs = Array.from({ length: node - start }, (_, index) => start + index)
  const fitting = inputs.filter((index) => sameShape(nodeCase, index, earlier))
  if (fitting.length > 0) {
    const slot = random.pick(fitting) - start
    tensors[node]!.record.src[slot] = BigInt(earlier + 1)
    // In place of its source, as ggml's allocator puts it.
    if (random.chance(0.5) && sameShape(nodeCase, node, earlier)) tensors[node]!.memory = memory
  } else if (inputs.length > 0) {
    tensors[random.pick(inputs)]!.memory = memory
  }
}
