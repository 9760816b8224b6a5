import { TYPE_BLOCK_SIZE, TYPE_SIZE } from "@ggml-rpc/protocol"
import { loadedTypeId } from "../spoken.ts"
import type { Layout } from "./layout.ts"
import { nameOf, type OpNode, RESULT } from "./OpNode.ts"
import type { Check, Indices, OpRule, TensorRule, Work } from "./rule.ts"

const OPTIONAL = 1
const MAY_BE_EMPTY = 2
/** The result may lie over it. */
const IN_PLACE = 4

/** 64 types, a bit each. */
const TYPE_WORDS = 2

/** Kernels count the elements of a row, and rows, in an `int`, to which they add the number of threads. */
const COUNT_MAX = 2 ** 31 - 2 ** 16

const noCheck: Check = () => ""

/**
 * The alignment of a type: kernels read whole elements, and a GPU's fail where these lie across. A block's is what its size
 * allows, up to 4.
 */
const TYPE_ALIGNMENT = Uint8Array.from(TYPE_SIZE, (size, type) =>
  TYPE_BLOCK_SIZE[type] === 1 ? size : Math.min(4, size & -size),
)

/** A rule as flat tables: judging a node by it costs no allocation. */
export class CompiledRule {
  readonly name: string
  /** "" for an operation that is computed. */
  readonly refusal: string
  readonly isView: boolean
  readonly isTraining: boolean
  /** Sources that kernels look at: any behind them are taken away. */
  readonly sourceCount: number
  readonly work: Work | undefined
  readonly indices: readonly Indices[]
  /** Sources that kernels read beyond their elements. */
  readonly reaching: readonly number[]
  /** -1 for none. */
  readonly #over: number
  readonly #writes: readonly number[]
  readonly #check: Check
  readonly #tensors: readonly TensorRule[]
  /** Of the result, then of each source. */
  readonly #types: Uint32Array
  readonly #layouts: readonly Layout[]
  readonly #flags: Uint8Array

  constructor(name: string, rule: OpRule) {
    const isRuled = rule.kind === "ruled"
    this.name = name
    this.refusal = rule.kind === "refused" ? rule.reason : ""
    this.isView = rule.kind === "view"
    this.isTraining = isRuled && rule.isTraining === true
    this.sourceCount = isRuled ? rule.sources.length : 0
    this.work = isRuled ? rule.work : undefined
    this.indices = (isRuled ? rule.indices : undefined) ?? []
    this.#over = (isRuled ? rule.over : undefined) ?? -1
    this.#writes = (isRuled ? rule.writes : undefined) ?? []
    this.#check = (isRuled ? rule.check : undefined) ?? noCheck
    this.#tensors = isRuled ? [rule.result, ...rule.sources] : []
    this.reaching = this.#tensors.flatMap(({ reach }, index) =>
      reach === undefined ? [] : [index - 1],
    )
    this.#types = new Uint32Array(this.#tensors.length * TYPE_WORDS)
    this.#layouts = this.#tensors.map(({ layout }) => layout)
    this.#flags = new Uint8Array(this.#tensors.length)
    for (const [index, tensor] of this.#tensors.entries()) {
      for (const type of tensor.types) {
        const id = loadedTypeId(type)
        this.#types[index * TYPE_WORDS + (id >> 5)]! |= 1 << (id & 31)
      }
      if (tensor.isOptional) this.#flags[index]! |= OPTIONAL
      if (tensor.mayBeEmpty) this.#flags[index]! |= MAY_BE_EMPTY
    }
    for (const source of (isRuled ? rule.inPlace : undefined) ?? []) {
      this.#flags[source + 1]! |= IN_PLACE
    }
  }

  mayLack(source: number): boolean {
    return (this.#flags[source + 1]! & OPTIONAL) !== 0
  }

  /** Bytes that kernels read of one of `reaching`, from its start on. */
  reachBytes(n: OpNode, source: number): number {
    return this.#tensors[source + 1]!.reach?.(n) ?? 0
  }

  /**
   * "" or what is wrong with a node whose result has elements, and which has all sources that it must have. `isPlaced`: whether
   * the tensors have memory.
   */
  judge(n: OpNode, isPlaced: boolean): string {
    for (let tensor = RESULT; tensor < this.sourceCount; tensor++) {
      if (!n.has(tensor)) continue
      const wrong = this.#judgeTensor(n, tensor)
      if (wrong !== "") return wrong
    }
    const wrong = this.#check(n)
    if (wrong !== "") return wrong
    if (n.overlapsItself(RESULT)) return "the result must not overlap itself"
    return isPlaced ? this.#judgeOverlaps(n) || this.#judgeWrites(n) : ""
  }

  /** What needs no other tensor. */
  #judgeTensor(n: OpNode, tensor: number): string {
    const type = n.type(tensor)
    if ((this.#types[(tensor + 1) * TYPE_WORDS + (type >> 5)]! & (1 << (type & 31))) === 0) {
      return this.#refuseType(n, tensor)
    }
    const mayBeEmpty = tensor === RESULT || (this.#flags[tensor + 1]! & MAY_BE_EMPTY) !== 0
    if (!mayBeEmpty && n.elements(tensor) === 0) return `${nameOf(tensor)} must not be empty`
    return (
      n.isCountable(tensor, COUNT_MAX) ||
      n.lies(tensor, this.#layouts[tensor + 1]!) ||
      n.must(
        n.isAligned(tensor, TYPE_ALIGNMENT[type]!),
        `${nameOf(tensor)} must be aligned to ${TYPE_ALIGNMENT[type]} bytes`,
      )
    )
  }

  #refuseType(n: OpNode, tensor: number): string {
    const { types } = this.#tensors[tensor + 1]!
    return types.length <= 3
      ? `${nameOf(tensor)} must be ${types.join(" or ")}`
      : `${nameOf(tensor)} cannot be ${n.typeName(tensor)}`
  }

  /** What a kernel writes is no part of what it reads, but all of it where it works in place. */
  #judgeOverlaps(n: OpNode): string {
    for (let source = 0; source < this.sourceCount; source++) {
      if (!n.has(source) || n.areApart(RESULT, source)) continue
      const isInPlace = (this.#flags[source + 1]! & IN_PLACE) !== 0
      if (!isInPlace) return `the result must not overlap src[${source}]`
      if (!n.areOne(RESULT, source)) return `the result must be src[${source}] or not overlap it`
    }
    return ""
  }

  /** The same of sources that a kernel writes. */
  #judgeWrites(n: OpNode): string {
    const over = this.#over
    if (over >= 0 && !n.areOne(RESULT, over)) return `the result must be src[${over}]`
    for (const written of this.#writes) {
      for (let other = RESULT; other < this.sourceCount; other++) {
        if (other === written || !n.has(other) || n.areApart(written, other)) continue
        return `src[${written}] must not overlap ${nameOf(other)}`
      }
    }
    return ""
  }
}
