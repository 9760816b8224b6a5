/** Parts of requests that several dialects have in common. */
import * as Schema from "effect/Schema"

/** A field that may be left out, or be null, as some clients write for it. */
export const optional = <A, I>(schema: Schema.Schema<A, I>) =>
  Schema.optionalWith(schema, { nullable: true, exact: true })

/** A JSON object whose inside is not looked at here. */
export const JsonObject = Schema.Record({ key: Schema.String, value: Schema.Unknown })

const TokenIds = Schema.Array(Schema.NonNegativeInt)

/** Text, tokens, or both in a row, of which texts are tokenized. */
export const MixedPrompt = Schema.Array(Schema.Union(Schema.NonNegativeInt, Schema.String))

/** One prompt, or several. */
export const Prompts = Schema.Union(
  Schema.String,
  TokenIds,
  Schema.Array(Schema.Union(Schema.String, MixedPrompt)),
  MixedPrompt,
).annotations({
  identifier: "Prompts",
  description:
    "A text, an array of token ids, an array of both; or an array of these, which are prompts of their own",
})
export type Prompts = typeof Prompts.Type

/** Texts that end an answer. */
export const StopTexts = Schema.Union(Schema.String, Schema.Array(Schema.String))

export const stopTexts = (stop: typeof StopTexts.Type | undefined): ReadonlyArray<string> =>
  (typeof stop === "string" ? [stop] : (stop ?? [])).filter((text) => text !== "")

/** How often an answer is wanted; OpenAI's limit. */
export const AnswerCount = Schema.Int.pipe(Schema.between(1, 128))
