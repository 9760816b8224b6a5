/**
 * JSON schemas as grammars. What a grammar cannot say (`not`, `if`, `uniqueItems`, `multipleOf`, bounds of numbers that are no
 * integers, unknown formats) it allows, as llama.cpp's does: the text is JSON of the schema's shape then.
 */
import { SchemaError } from "../errors.ts"
import { exceptTexts } from "./exceptTexts.ts"
import { formatPatterns } from "./formats.ts"
import { Gbnf, literal, repeated, separated } from "./Gbnf.ts"
import { integersBetween } from "./integers.ts"
import * as Json from "./json.ts"
import { membersInOrder } from "./members.ts"
import { patternRule } from "./pattern.ts"

export type JsonSchema = boolean | Readonly<Record<string, unknown>>

/**
 * GBNF of the JSON that a schema allows; `{ type: "object" }` for any object. Members come in the order in which the schema
 * names them.
 *
 * @throws {SchemaError} when the schema is none, is at odds with itself, or refers to what is not in it
 */
export const grammarOfSchema = (schema: unknown): string => {
  const grammar = new Gbnf()
  const root = grammar.reserve("root")
  grammar.define(root, new SchemaRules(grammar, schema).rule(schema, "$", "answer"))
  return grammar.toString()
}

/** What leads from a schema to those that allow the same text: references and alternatives that have read none of it. */
type Trail = ReadonlySet<unknown>

const noTrail: Trail = new Set()

/** Writes the rules of one document's schemas. */
export class SchemaRules {
  readonly #grammar: Gbnf
  readonly #document: unknown
  /** Rules of what is referred to, by pointer. */
  readonly #referred = new Map<string, string>()

  constructor(grammar: Gbnf, document: unknown) {
    this.#grammar = grammar
    this.#document = document
  }

  /** Name of the rule for a schema at `path`. */
  rule(given: unknown, path: string, name: string, trail: Trail = noTrail): string {
    const schema = schemaAt(given, path)
    if (schema === true) return Json.value(this.#grammar)
    if (schema === false) throw new SchemaError({ path, problem: "is false: it allows nothing" })
    if (typeof schema.$ref === "string") return this.#reference(schema.$ref, `${path}.$ref`, trail)
    const rule = this.#grammar.reserve(name)
    return this.#grammar.define(rule, this.#body(schema, path, name, trail))
  }

  #body(schema: Keywords, path: string, name: string, trail: Trail): string {
    if ("const" in schema) return literal(JSON.stringify(schema.const))
    if ("enum" in schema) return enumBody(schema.enum, `${path}.enum`)
    for (const key of ["anyOf", "oneOf"] as const) {
      if (key in schema) return this.#alternatives(schema, key, path, name, trail)
    }
    if ("allOf" in schema) {
      const merged = this.#merged(schema, path, trail)
      return this.rule(merged, path, name, trail)
    }
    const { type } = schema
    if (Array.isArray(type)) {
      if (type.length === 0) throw new SchemaError({ path: `${path}.type`, problem: "is empty" })
      return type
        .map((one) => this.rule({ ...schema, type: one }, path, `${name}-${String(one)}`, trail))
        .join(" | ")
    }
    return this.#typed(schema, type ?? impliedType(schema), path, name)
  }

  #typed(schema: Keywords, type: unknown, path: string, name: string): string {
    const grammar = this.#grammar
    switch (type) {
      case undefined:
        return Json.value(grammar)
      case "object":
        return this.#object(schema, path, name)
      case "array":
        return this.#array(schema, path, name)
      case "string":
        return this.#string(schema, path, name)
      case "integer":
        return integerBody(grammar, schema, path)
      case "number":
        return Json.number(grammar)
      case "boolean":
        return Json.boolean(grammar)
      case "null":
        return Json.nothing(grammar)
      default:
        throw new SchemaError({
          path: `${path}.type`,
          problem: `is ${JSON.stringify(type)}: it must be object, array, string, integer, number, boolean or null`,
        })
    }
  }

  #reference(pointer: string, path: string, trail: Trail): string {
    if (trail.has(pointer)) {
      throw new SchemaError({
        path,
        problem: `leads to itself: "${pointer}" says nothing of its own`,
      })
    }
    const known = this.#referred.get(pointer)
    if (known !== undefined) return known
    const schema = this.#resolved(pointer, path)
    const label = pointer.split("/").at(-1) || "root"
    const rule = this.#grammar.reserve(`ref-${label}`)
    this.#referred.set(pointer, rule)
    const target = pointerPath(pointer)
    const inner = this.rule(schema, target, `${rule}-value`, new Set([...trail, pointer]))
    return this.#grammar.define(rule, inner)
  }

  #resolved(pointer: string, path: string): unknown {
    if (pointer !== "#" && !pointer.startsWith("#/")) {
      throw new SchemaError({
        path,
        problem: `is "${pointer}": only references within the schema can be followed`,
      })
    }
    let schema = this.#document
    for (const part of pointer.split("/").slice(1)) {
      const key = decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~")
      const isThere = typeof schema === "object" && schema !== null && Object.hasOwn(schema, key)
      if (!isThere)
        throw new SchemaError({ path, problem: `is "${pointer}", which is not in the schema` })
      schema = (schema as Keywords)[key]
    }
    return schema
  }

  /** What stands beside the alternatives holds for each of them. */
  #alternatives(schema: Keywords, key: string, path: string, name: string, trail: Trail): string {
    const { [key]: given, ...base } = schema
    const hasBase = Object.keys(base).some((keyword) => constraints.has(keyword))
    const rules = listAt(given, `${path}.${key}`).map((alternative, index) => {
      const at = `${path}.${key}[${index}]`
      if (!hasBase) return this.rule(alternative, at, `${name}-${index}`, trail)
      const merged = this.#merged({ ...base, allOf: [alternative] }, at, trail)
      return this.rule(merged, at, `${name}-${index}`, trail)
    })
    return rules.join(" | ")
  }

  /** One schema of all that `allOf` asks for. */
  #merged({ allOf, ...base }: Keywords, path: string, trail: Trail): Keywords {
    let merged = base
    for (const [index, given] of listAt(allOf, `${path}.allOf`).entries()) {
      const at = `${path}.allOf[${index}]`
      let schema = schemaAt(given, at)
      const seen = new Set(trail)
      while (typeof schema === "object" && typeof schema.$ref === "string") {
        if (seen.has(schema.$ref)) throw new SchemaError({ path: at, problem: "leads to itself" })
        seen.add(schema.$ref)
        schema = schemaAt(this.#resolved(schema.$ref, `${at}.$ref`), pointerPath(schema.$ref))
      }
      if (schema === false)
        throw new SchemaError({ path: at, problem: "is false: it allows nothing" })
      if (schema === true) continue
      const part = "allOf" in schema ? this.#merged(schema, at, seen) : schema
      merged = mergedKeywords(merged, part, at)
    }
    return merged
  }

  #object(schema: Keywords, path: string, name: string): string {
    const properties = recordAt(schema.properties ?? {}, `${path}.properties`)
    const required = textsAt(schema.required ?? [], `${path}.required`)
    const gap = Json.space(this.#grammar)
    const members = Object.entries(properties).map(([key, property]) => {
      const value = this.rule(property, `${path}.properties${memberPath(key)}`, `${name}-${key}`)
      const text = `${literal(JSON.stringify(key))} ${gap} ":" ${gap} ${value}`
      return {
        rule: this.#grammar.add(`${name}-${key}-kv`, text),
        isRequired: required.includes(key),
      }
    })
    const more = this.#additional(schema, Object.keys(properties), path, name)
    const unnamed = required.filter((key) => !Object.hasOwn(properties, key))
    if (unnamed.length > 0) {
      for (const key of unnamed) {
        const text = `${literal(JSON.stringify(key))} ${gap} ":" ${gap} ${Json.value(this.#grammar)}`
        members.push({ rule: this.#grammar.add(`${name}-${key}-kv`, text), isRequired: true })
      }
    }
    return `"{" ${gap} ${membersInOrder(this.#grammar, members, name, { comma: `"," ${gap}`, more })} ${gap} "}"`
  }

  /** Rule of a member that the schema does not name; undefined where there may be none. */
  #additional(
    schema: Keywords,
    keys: ReadonlyArray<string>,
    path: string,
    name: string,
  ): string | undefined {
    const { additionalProperties: given } = schema
    // A schema that names members means these, as llama.cpp takes it; one that names none means any.
    if (given === false || (given === undefined && keys.length > 0)) return undefined
    const gap = Json.space(this.#grammar)
    const value = this.rule(given ?? true, `${path}.additionalProperties`, `${name}-additional`)
    const key =
      keys.length === 0 ? Json.string(this.#grammar) : exceptTexts(this.#grammar, name, keys)
    return this.#grammar.add(`${name}-additional-kv`, `${key} ${gap} ":" ${gap} ${value}`)
  }

  #array(schema: Keywords, path: string, name: string): string {
    const [min, max] = boundsAt(schema, "minItems", "maxItems", path)
    const hasTuple = Array.isArray(schema.prefixItems) || Array.isArray(schema.items)
    const key = Array.isArray(schema.prefixItems) ? "prefixItems" : "items"
    const first = hasTuple ? listAt(schema[key], `${path}.${key}`) : []
    const other = hasTuple
      ? key === "items"
        ? (schema.additionalItems ?? false)
        : (schema.items ?? false)
      : (schema.items ?? true)
    const gap = Json.space(this.#grammar)
    const comma = `"," ${gap}`
    const tuple = first.map((item, index) =>
      this.rule(item, `${path}.${key}[${index}]`, `${name}-${index}`),
    )
    if (tuple.length === 0) {
      const item = this.rule(other, `${path}.items`, `${name}-item`)
      return `"[" ${gap} ${separated(item, comma, min, max)} ${gap} "]"`
    }
    const more =
      other === false
        ? ""
        : ` ${repeated(
            `(${comma} ${this.rule(other, `${path}.items`, `${name}-item`)})`,
            Math.max(0, min - tuple.length),
            Math.max(0, max - tuple.length),
          )}`
    return `"[" ${gap} ${tuple.join(` ${comma} `)}${more} ${gap} "]"`
  }

  #string(schema: Keywords, path: string, name: string): string {
    const { pattern, format } = schema
    const [min, max] = boundsAt(schema, "minLength", "maxLength", path)
    if (pattern !== undefined) {
      const rule = this.#pattern(pattern, `${path}.pattern`, name)
      if (rule !== undefined) return rule
    }
    if (typeof format === "string" && Object.hasOwn(formatPatterns, format)) {
      const text = formatPatterns[format]!
      return this.#grammar.shared(
        `format-${format}`,
        () => patternRule(this.#grammar, `format-${format}-text`, `^(${text})$`)!,
      )
    }
    if (min === 0 && max === Number.POSITIVE_INFINITY) return Json.string(this.#grammar)
    return `"\\"" ${repeated(Json.char(this.#grammar), min, max)} "\\""`
  }

  #pattern(pattern: unknown, path: string, name: string): string | undefined {
    if (typeof pattern !== "string") throw new SchemaError({ path, problem: "is no text" })
    try {
      return patternRule(this.#grammar, `${name}-pattern`, pattern)
    } catch (error) {
      const reason = error instanceof Error ? error.message : String(error)
      throw new SchemaError({ path, problem: `is no regular expression: ${reason}` })
    }
  }
}

type Keywords = Readonly<Record<string, unknown>>

/** Keywords that say something of the text; the others name or describe. */
const constraints: ReadonlySet<string> = new Set([
  ..."type properties required additionalProperties items prefixItems minItems maxItems".split(" "),
  ..."minLength maxLength pattern format minimum maximum exclusiveMinimum exclusiveMaximum".split(
    " ",
  ),
  ..."enum const allOf anyOf oneOf".split(" "),
])

const impliedType = (schema: Keywords): string | undefined => {
  const has = (...keys: ReadonlyArray<string>) => keys.some((key) => key in schema)
  if (has("properties", "additionalProperties", "required")) return "object"
  if (has("items", "prefixItems", "minItems", "maxItems")) return "array"
  if (has("pattern", "minLength", "maxLength")) return "string"
  return undefined
}

const mergedKeywords = (one: Keywords, other: Keywords, path: string): Keywords => {
  const merged = { ...one, ...other }
  if ("properties" in other) {
    // Of `one` they were looked at where they came from, or will be where it is.
    const added = recordAt(other.properties, `${path}.properties`)
    merged.properties = { ...(one.properties as Keywords | undefined), ...added }
  }
  if ("required" in one && "required" in other) {
    const lists = [one, other].flatMap(({ required }) => textsAt(required, `${path}.required`))
    merged.required = [...new Set(lists)]
  }
  if (Array.isArray(one.enum) && Array.isArray(other.enum)) {
    const kept = new Set(other.enum.map((value) => JSON.stringify(value)))
    merged.enum = one.enum.filter((value) => kept.has(JSON.stringify(value)))
  }
  return merged
}

const enumBody = (given: unknown, path: string): string => {
  const values = listAt(given, path)
  return values.map((value) => literal(JSON.stringify(value))).join(" | ")
}

const integerBody = (grammar: Gbnf, schema: Keywords, path: string): string => {
  const bound = (key: string): number | undefined => {
    const { [key]: given } = schema
    // Draft 4 has exclusive bounds as booleans beside the bounds.
    if (given === undefined || typeof given === "boolean") return undefined
    if (typeof given === "number" && Number.isFinite(given)) return given
    throw new SchemaError({ path: `${path}.${key}`, problem: "is no number" })
  }
  const above = schema.exclusiveMinimum === true ? bound("minimum") : bound("exclusiveMinimum")
  const below = schema.exclusiveMaximum === true ? bound("maximum") : bound("exclusiveMaximum")
  const mins = [bound("minimum"), above === undefined ? undefined : Math.floor(above) + 1]
  const maxs = [bound("maximum"), below === undefined ? undefined : Math.ceil(below) - 1]
  const min = Math.max(...mins.map((value) => (value === undefined ? -Infinity : Math.ceil(value))))
  const max = Math.min(...maxs.map((value) => (value === undefined ? Infinity : Math.floor(value))))
  if (min > max) throw new SchemaError({ path, problem: "has a minimum above its maximum" })
  return min === -Infinity && max === Infinity ? Json.integer(grammar) : integersBetween(min, max)
}

const boundsAt = (
  schema: Keywords,
  minKey: string,
  maxKey: string,
  path: string,
): readonly [min: number, max: number] => {
  const bound = (key: string, otherwise: number): number => {
    const value = schema[key] ?? otherwise
    if (value === otherwise || (Number.isSafeInteger(value) && Number(value) >= 0))
      return Number(value)
    throw new SchemaError({ path: `${path}.${key}`, problem: "is no whole number from 0 on" })
  }
  const [min, max] = [bound(minKey, 0), bound(maxKey, Number.POSITIVE_INFINITY)]
  if (min > max) throw new SchemaError({ path, problem: `has a ${minKey} above its ${maxKey}` })
  return [min, max]
}

const schemaAt = (given: unknown, path: string): boolean | Keywords => {
  if (typeof given === "boolean") return given
  return recordAt(given, path)
}

const recordAt = (given: unknown, path: string): Keywords => {
  if (typeof given === "object" && given !== null && !Array.isArray(given)) return given as Keywords
  throw new SchemaError({ path, problem: `is ${kindOf(given)}: it must be an object` })
}

const listAt = (given: unknown, path: string): ReadonlyArray<unknown> => {
  if (!Array.isArray(given)) {
    throw new SchemaError({ path, problem: `is ${kindOf(given)}: it must be a list` })
  }
  if (given.length === 0) throw new SchemaError({ path, problem: "is empty: it allows nothing" })
  return given
}

const textsAt = (given: unknown, path: string): ReadonlyArray<string> => {
  if (Array.isArray(given) && given.every((text) => typeof text === "string")) return given
  throw new SchemaError({ path, problem: "must be a list of texts" })
}

const kindOf = (value: unknown): string =>
  value === null ? "null" : Array.isArray(value) ? "a list" : `a ${typeof value}`

const memberPath = (key: string): string =>
  /^[A-Za-z_$][\w$]*$/.test(key) ? `.${key}` : `[${JSON.stringify(key)}]`

const pointerPath = (pointer: string): string =>
  `$${pointer
    .split("/")
    .slice(1)
    .map((part) => memberPath(decodeURIComponent(part)))
    .join("")}`
