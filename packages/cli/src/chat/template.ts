/** The template of a chat: the flags', else the model's own. */
import { readFileSync } from "node:fs"
import {
  builtinTemplate,
  type ChatTemplate,
  modelTemplate,
  TemplateSyntaxError,
  UnknownTemplateError,
} from "@ggml-rpc/chat"
import type { Cluster } from "@ggml-rpc/client"
import * as Effect from "effect/Effect"
import { processEscapes } from "../commands/prompt.ts"
import { ChatFileError } from "../errors.ts"
import { fileReason } from "../fileReason.ts"
import type { templateFlags } from "../flags/chat.ts"
import type { FlagValues } from "../flags/Flag.ts"
import { type AffixValues, hasAffixes } from "./affixes.ts"

type TemplateValues = FlagValues<typeof templateFlags>

/** The Jinja source that the flags give; undefined: none. */
export const givenTemplate = ({ chatTemplate, chatTemplateFile }: TemplateValues) =>
  Effect.gen(function* () {
    if (chatTemplateFile !== undefined) {
      return yield* readText("--chat-template-file", chatTemplateFile)
    }
    if (chatTemplate === undefined || /\{[{%]/.test(chatTemplate)) return chatTemplate
    return yield* failingWith(UnknownTemplateError, () => builtinTemplate(chatTemplate))
  })

/** Messages as they are, between two texts. */
const affixTemplate = `{%- for message in messages -%}
{%- if message.role == "user" -%}
{{- (bos_token if in_prefix_bos else "") + in_prefix + message.content + in_suffix -}}
{%- else -%}
{{- message.content -}}
{%- endif -%}
{%- endfor -%}`

/** The template of `--in-prefix` and its like, and the variables that it reads; undefined where they are not given. */
export const affixesOf = (values: AffixValues & { readonly escape: boolean }) => {
  if (!hasAffixes(values)) return undefined
  const { inPrefix = "", inSuffix = "", inPrefixBos, escape: isEscaped } = values
  const read = (text: string): string => (isEscaped ? processEscapes(text) : text)
  return {
    source: affixTemplate,
    variables: {
      in_prefix: read(inPrefix),
      in_suffix: read(inSuffix),
      in_prefix_bos: inPrefixBos,
    },
  }
}

/** @param source instead of the model's own */
export const templateOf = (
  info: Cluster.ClusterModel["info"],
  source: string | undefined,
): Effect.Effect<ChatTemplate, TemplateSyntaxError> =>
  failingWith(TemplateSyntaxError, () => modelTemplate(info, source))

/** A file's text, which `flag` names. */
export const readText = (flag: string, path: string): Effect.Effect<string, ChatFileError> =>
  Effect.try({
    try: () => readFileSync(path, "utf8"),
    catch: (cause) => new ChatFileError({ flag, path, reason: fileReason(cause) }),
  })

/** What `make` throws of this class is a failure, anything else a defect. */
const failingWith = <A, E>(
  kind: abstract new (...args: never) => E,
  make: () => A,
): Effect.Effect<A, E> =>
  Effect.try({
    try: make,
    catch: (error) => {
      if (error instanceof kind) return error
      throw error
    },
  })
