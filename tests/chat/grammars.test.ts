/** Grammars of JSON schemas, as llama reads them: what fits the schema and what does not. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test"
import { grammarOfSchema } from "@ggml-rpc/chat"
import { Llama } from "@ggml-rpc/native"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Scope from "effect/Scope"
import fc from "fast-check"
import { type GrammarWalk, grammarWalk } from "./GrammarWalk.ts"

let walk: GrammarWalk
const scope = Effect.runSync(Scope.make())
beforeAll(async () => {
  const opened = grammarWalk.pipe(Effect.provide(Llama.layer), Scope.extend(scope))
  walk = await Effect.runPromise(opened)
})
afterAll(() => Effect.runPromise(Scope.close(scope, Exit.void)))

interface Case {
  readonly name: string
  readonly schema: unknown
  /** JSON texts. */
  readonly right: ReadonlyArray<string>
  readonly wrong: ReadonlyArray<string>
}

const of = (value: unknown): string => JSON.stringify(value)
const text = { type: "string" }
const integer = { type: "integer" }

const cases: ReadonlyArray<Case> = [
  {
    name: "any object",
    schema: { type: "object" },
    right: ["{}", '{"a": 1, "b": [true, null, {"c": "d"}]}', '{ "a" : 1}'.replace(" :", ":")],
    wrong: ["[]", '"a"', '{"a"}', "{", '{"a": 01}', "{} "],
  },
  {
    name: "anything",
    schema: {},
    right: ["{}", "[1, -2.5, 3e4]", '"\\u00e4\\n"', "null", "12345"],
    wrong: ["", "nul", "'a'", "[1,]", '"\n"'],
  },
  {
    name: "members in order, optional ones there or not",
    schema: {
      type: "object",
      properties: { a: integer, b: text, c: { type: "boolean" }, d: { type: "null" } },
      required: ["b"],
    },
    right: [
      of({ b: "x" }),
      of({ a: 1, b: "x" }),
      of({ a: 1, b: "x", c: true, d: null }),
      of({ b: "x", d: null }),
      '{"a": 1, "b": "x"}',
      '{\n  "a": 1,\n  "b": "x"\n}',
    ],
    wrong: [
      of({}),
      of({ a: 1 }),
      of({ b: "x", a: 1 }),
      of({ b: "x", e: 1 }),
      of({ b: 1 }),
      '{"a":1 "b":"x"}',
    ],
  },
  {
    name: "optional members alone",
    schema: { type: "object", properties: { a: integer, b: integer, c: integer } },
    right: [of({}), of({ a: 1 }), of({ c: 1 }), of({ a: 1, c: 1 }), of({ a: 1, b: 1, c: 1 })],
    wrong: [of({ c: 1, b: 1 }), '{"a":1,}', '{,"a":1}'],
  },
  {
    name: "additional members",
    schema: {
      type: "object",
      properties: { a: integer, ab: integer },
      required: ["a"],
      additionalProperties: { type: "number" },
    },
    right: [
      of({ a: 1 }),
      of({ a: 1, ab: 2 }),
      of({ a: 1, abc: 2.5, b: 3, "": 1 }),
      of({ a: 1, A: 1 }),
    ],
    wrong: [of({ a: 1, x: "y" }), of({ x: 1 }), '{"a": 1, "a": 2}', '{"a": 1, "c": 1, "ab": 2}'],
  },
  {
    name: "a map",
    schema: { type: "object", additionalProperties: text },
    right: [of({}), of({ a: "b", c: "d" })],
    wrong: [of({ a: 1 })],
  },
  {
    name: "nothing but what is named, and what is required without being named",
    schema: { properties: { a: integer }, required: ["b"], additionalProperties: false },
    right: [of({ a: 1, b: [] }), of({ b: "x" })],
    wrong: [of({ a: 1 }), of({ b: 1, c: 1 })],
  },
  {
    name: "enum and const",
    schema: {
      type: "object",
      properties: { a: { enum: ["x", 'y"z', 3, null] }, b: { const: { c: [1] } } },
      required: ["a", "b"],
    },
    right: [
      of({ a: 'y"z', b: { c: [1] } }),
      of({ a: 3, b: { c: [1] } }),
      of({ a: null, b: { c: [1] } }),
    ],
    wrong: [of({ a: "z", b: { c: [1] } }), of({ a: "x", b: { c: [2] } })],
  },
  {
    name: "alternatives, with what stands beside them",
    schema: {
      type: "object",
      properties: { kind: text },
      required: ["kind"],
      oneOf: [
        { properties: { a: integer }, required: ["a"] },
        { properties: { b: text }, required: ["b"] },
      ],
    },
    right: [of({ kind: "x", a: 1 }), of({ kind: "x", b: "y" })],
    wrong: [of({ kind: "x" }), of({ a: 1 }), of({ kind: "x", a: "y" })],
  },
  {
    name: "several types",
    schema: { type: ["string", "null", "integer"], minimum: 3 },
    right: ['"a"', "null", "3"],
    wrong: ["2", "true", "1.5"],
  },
  {
    name: "all of",
    schema: {
      allOf: [
        { $ref: "#/$defs/named" },
        { type: "object", properties: { age: integer }, required: ["age"] },
        { allOf: [{ properties: { tag: { enum: ["a", "b"] } } }] },
      ],
      $defs: { named: { type: "object", properties: { name: text }, required: ["name"] } },
    },
    right: [of({ name: "x", age: 1 }), of({ name: "x", age: 1, tag: "b" })],
    wrong: [of({ name: "x" }), of({ age: 1 }), of({ name: "x", age: 1, tag: "c" })],
  },
  {
    name: "references, to itself and with escaped names",
    schema: {
      $ref: "#/definitions/tree~1node",
      definitions: {
        "tree/node": {
          type: "object",
          properties: {
            value: integer,
            children: { type: "array", items: { $ref: "#/definitions/tree~1node" } },
          },
          required: ["value"],
        },
      },
    },
    right: [
      of({ value: 1 }),
      of({ value: 1, children: [{ value: 2, children: [] }, { value: 3 }] }),
    ],
    wrong: [of({ children: [] }), of({ value: 1, children: [1] })],
  },
  {
    name: "a list that refers to the whole",
    schema: { anyOf: [{ type: "array", items: { $ref: "#" } }, integer] },
    right: ["1", "[]", "[1, [2, []]]"],
    wrong: ["{}", "[true]"],
  },
  {
    name: "lengths of lists",
    schema: { type: "array", items: integer, minItems: 2, maxItems: 4 },
    right: ["[1,2]", "[1, 2, 3, 4]"],
    wrong: ["[]", "[1]", "[1,2,3,4,5]", '["a","b"]'],
  },
  {
    name: "tuples, with others behind them",
    schema: { type: "array", prefixItems: [text, integer], items: { type: "boolean" } },
    right: ['["a",1]', '["a", 1, true, false]'],
    wrong: ["[]", '[1,"a"]', '["a",1,2]'],
  },
  {
    name: "lengths of texts",
    schema: { type: "string", minLength: 2, maxLength: 3 },
    right: ['"ab"', '"aä🙂"', '"\\n\\""'],
    wrong: ['"a"', '"abcd"', "ab"],
  },
  {
    name: "integers between bounds",
    schema: { type: "integer", minimum: -12, exclusiveMaximum: 107 },
    right: ["-12", "-9", "-1", "0", "9", "10", "99", "100", "106"],
    wrong: ["-13", "-20", "-100", "107", "110", "1000", "007", "1.5", "-0"],
  },
  {
    name: "integers above a bound",
    schema: { type: "integer", exclusiveMinimum: 8 },
    right: ["9", "10", "19", "100", "123456"],
    wrong: ["8", "0", "-9"],
  },
  {
    name: "dates and times",
    schema: {
      type: "object",
      properties: {
        d: { type: "string", format: "date" },
        t: { type: "string", format: "date-time" },
      },
    },
    right: [
      of({ d: "2026-11-28" }),
      of({ d: "2026-01-01", t: "2026-11-28T08:00:00Z" }),
      of({ t: "2026-11-28T08:00:00.5+01:00" }),
    ],
    wrong: [of({ d: "2026-13-01" }), of({ d: "tomorrow" }), of({ t: "2026-11-28" })],
  },
  {
    name: "other formats",
    schema: {
      type: "array",
      prefixItems: [
        { type: "string", format: "uuid" },
        { type: "string", format: "ipv4" },
        { type: "string", format: "email" },
        { type: "string", format: "of its own" },
      ],
    },
    right: [of(["123e4567-e89b-12d3-a456-426614174000", "192.168.0.255", "a.b@example.org", "x"])],
    wrong: [
      of(["123e4567", "192.168.0.255", "a@b.org", "x"]),
      of(["123e4567-e89b-12d3-a456-426614174000", "192.168.0.256", "a@b.org", "x"]),
    ],
  },
  {
    name: "a pattern from start to end",
    schema: { type: "string", pattern: '^(?:[A-Z]{2}-)?\\d{3}[^"\\\\x]?$' },
    right: ['"AB-123"', '"123"', '"123ä"', '"123\\n"'],
    wrong: ['"AB123"', '"12"', '"123x"', '"123\\""', '"AB-1234567"'],
  },
  {
    name: "a pattern that may be anywhere",
    schema: { type: "string", pattern: 'a"+\\\\b|^z' },
    right: ['"a\\"\\\\b"', '"xx a\\"\\"\\\\b yy"', '"zebra"'],
    wrong: ['"a\\\\b"', '"az"'],
  },
  {
    name: "a pattern that no grammar can follow allows any text",
    schema: { type: "string", pattern: "^(?=a)b$" },
    right: ['"anything"'],
    wrong: ["1"],
  },
  {
    name: "texts that need escapes as names",
    schema: {
      type: "object",
      properties: { 'a"\\b\n': integer, "ä 🙂": integer },
      required: ['a"\\b\n'],
    },
    right: [of({ 'a"\\b\n': 1 }), of({ 'a"\\b\n': 1, "ä 🙂": 2 })],
    wrong: [of({ a: 1 })],
  },
  {
    name: "names that are llama's own, or each other's",
    schema: {
      type: "object",
      properties: {
        root: { type: "object", properties: { string: text } },
        "root-string": integer,
        space: { type: "null" },
        "a b": integer,
        "a-b": text,
      },
    },
    right: [of({ root: { string: "x" }, "root-string": 1, space: null, "a b": 1, "a-b": "x" })],
    wrong: [of({ root: { string: 1 } }), of({ "a b": "x" })],
  },
]

test.each(cases.map((one) => [one.name, one] as const))("%s", (_, { schema, right, wrong }) => {
  const grammar = grammarOfSchema(schema)
  expect(right.filter((json) => !walk.takes(grammar, json))).toEqual([])
  expect(wrong.filter((json) => walk.takes(grammar, json))).toEqual([])
})

interface Shape {
  readonly schema: Readonly<Record<string, unknown>>
  /** Values that fit it. */
  readonly value: fc.Arbitrary<unknown>
}

const key = fc.string({ unit: "grapheme", maxLength: 6 }).filter((name) => name !== "__proto__")

const { shape } = fc.letrec<{ shape: Shape; leaf: Shape; list: Shape; object: Shape }>((tie) => ({
  shape: fc.oneof({ maxDepth: 3 }, tie("leaf"), tie("list"), tie("object")),
  leaf: fc.oneof(
    fc.constant<Shape>({ schema: { type: "boolean" }, value: fc.boolean() }),
    fc.constant<Shape>({ schema: { type: "null" }, value: fc.constant(null) }),
    fc.tuple(fc.integer(), fc.nat()).map(
      ([min, size]): Shape => ({
        schema: { type: "integer", minimum: min, maximum: min + size },
        // Neither JSON nor the grammar has -0.
        value: fc
          .integer({ min, max: Math.min(min + size, 2 ** 31 - 1) })
          .map((value) => value + 0),
      }),
    ),
    fc.tuple(fc.nat(5), fc.nat(5)).map(
      ([min, size]): Shape => ({
        schema: { type: "string", minLength: min, maxLength: min + size },
        value: fc
          .array(fc.constantFrom(...'aZ0 "\\\n\u00e4\u4f60\u{1f642}'), {
            minLength: min,
            maxLength: min + size,
          })
          .map((characters) => characters.join("")),
      }),
    ),
    fc
      .uniqueArray(fc.oneof(fc.string(), fc.integer(), fc.boolean()), {
        minLength: 1,
        maxLength: 4,
      })
      .map((values): Shape => ({ schema: { enum: values }, value: fc.constantFrom(...values) })),
  ),
  list: fc.tuple(tie("shape"), fc.nat(3), fc.nat(3)).map(
    ([{ schema, value }, min, size]): Shape => ({
      schema: { type: "array", items: schema, minItems: min, maxItems: min + size },
      value: fc.array(value, { minLength: min, maxLength: min + size }),
    }),
  ),
  object: fc
    .uniqueArray(fc.tuple(key, tie("shape"), fc.boolean()), {
      selector: ([name]) => name,
      maxLength: 4,
    })
    .map((members): Shape => {
      const required = members.filter(([, , isRequired]) => isRequired).map(([name]) => name)
      const entries = members.map(([name, { value }, isRequired]) => {
        const entry = value.map((given) => [[name, given]] as const)
        return isRequired ? entry : fc.oneof(entry, fc.constant([]))
      })
      const properties = Object.fromEntries(members.map(([name, { schema }]) => [name, schema]))
      return {
        schema: { type: "object", properties, required, additionalProperties: false },
        value: fc.tuple(...entries).map((given) => Object.fromEntries(given.flat())),
      }
    }),
}))

test("whatever fits a schema is taken, and not what lacks its end", () => {
  const pairs = shape.chain(({ schema, value }) => fc.tuple(fc.constant(schema), value))
  fc.assert(
    fc.property(pairs, ([schema, value]) => {
      const grammar = grammarOfSchema(schema)
      const json = of(value)
      expect(walk.takes(grammar, json)).toBe(true)
      if (/[}\]"]$/.test(json)) expect(walk.takes(grammar, json.slice(0, -1))).toBe(false)
    }),
    { numRuns: 500 },
  )
})

describe("a broken schema is told by its path", () => {
  const broken: ReadonlyArray<readonly [path: string, schema: unknown]> = [
    ["$", "object"],
    ["$", null],
    ["$.type", { type: "strin" }],
    ["$.properties.a.type", { properties: { a: { type: "text" } } }],
    ['$.properties["a b"]', { properties: { "a b": 3 } }],
    ["$.properties", { properties: [] }],
    ["$.required", { properties: {}, required: "a" }],
    ["$.items.enum", { items: { enum: [] } }],
    ["$.anyOf", { anyOf: {} }],
    ["$.anyOf[1]", { anyOf: [{}, false] }],
    ["$.allOf[0].properties", { allOf: [{ properties: 1 }] }],
    ["$.minItems", { type: "array", minItems: -1 }],
    ["$", { type: "array", minItems: 3, maxItems: 2 }],
    ["$", { type: "integer", minimum: 3, maximum: 2 }],
    ["$.minimum", { type: "integer", minimum: "3" }],
    ["$.pattern", { type: "string", pattern: "(" }],
    ["$.$ref", { $ref: "https://example.org/schema" }],
    ["$.$ref", { $ref: "#/$defs/none" }],
    ["$.$defs.a.$ref", { $ref: "#/$defs/a", $defs: { a: { $ref: "#/$defs/a" } } }],
    [
      "$.$defs.b.anyOf[0].$ref",
      {
        $ref: "#/$defs/a",
        $defs: { a: { anyOf: [{ $ref: "#/$defs/b" }] }, b: { anyOf: [{ $ref: "#/$defs/a" }] } },
      },
    ],
  ]
  test.each(broken.map(([path, schema]) => [path, JSON.stringify(schema), schema] as const))(
    "%s of %s",
    (path, _, schema) => {
      let error: unknown
      try {
        grammarOfSchema(schema)
      } catch (thrown) {
        error = thrown
      }
      expect(error).toMatchObject({ _tag: "SchemaError", path })
      expect(String((error as Error).message)).toContain(path)
    },
  )
})
