/** The members of an object, in an order of their own. */
import { type Gbnf, separated } from "./Gbnf.ts"

export interface Member {
  readonly rule: string
  readonly isRequired: boolean
}

/**
 * Members in order, the optional ones there or not, and any number of others at the end.
 *
 * @param more rule of one of those others, where there may be any
 */
export const membersInOrder = (
  grammar: Gbnf,
  members: ReadonlyArray<Member>,
  name: string,
  { comma, more }: { readonly comma: string; readonly more?: string | undefined },
): string => {
  // Rules for what may follow when at least one member is there.
  let rest = more === undefined ? "" : grammar.add(`${name}-more`, `(${comma} ${more})*`)
  const starts: string[] = more === undefined ? [""] : [separated(more, comma, 0)]
  for (const [index, { rule, isRequired }] of [...members.entries()].toReversed()) {
    if (isRequired) starts.length = 0
    starts.unshift(`${rule} ${rest}`.trim())
    if (index === 0) break
    const next = `${comma} ${rule}`
    rest = grammar.add(`${name}-rest`, `${isRequired ? next : `(${next})?`} ${rest}`.trim())
  }
  const alternatives = starts.filter(Boolean).join(" | ")
  if (alternatives === "") return ""
  return `(${alternatives})${starts.includes("") ? "?" : ""}`
}
