/** One Jinja template, as chat templates are written: Python's habits, `raise_exception`, `strftime_now`. */
import { Environment, Interpreter, Template } from "@huggingface/jinja"
import { TemplateRefusalError, TemplateRenderError, TemplateSyntaxError } from "../errors.ts"
import { strftime } from "./strftime.ts"

const range = (start: number, stop?: number, step = 1): ReadonlyArray<number> => {
  const [from, to] = stop === undefined ? [0, start] : [start, stop]
  const length = Math.max(0, Math.ceil((to - from) / step))
  return Array.from({ length }, (_, index) => from + index * step)
}

const constants = { true: true, false: false, none: null, True: true, False: false, None: null }

export class Jinja {
  readonly source: string
  readonly #program: Template["parsed"]

  /** @throws {TemplateSyntaxError} */
  constructor(source: string) {
    this.source = source
    try {
      this.#program = new Template(source).parsed
    } catch (error) {
      throw new TemplateSyntaxError({ reason: reasonOf(error) })
    }
  }

  /**
   * @param now what `strftime_now` tells
   * @throws {TemplateRefusalError} when the template raises an exception of its own
   * @throws {TemplateRenderError}
   */
  render(variables: Readonly<Record<string, unknown>>, now: Date): string {
    const refuse = (reason: unknown): never => {
      throw new TemplateRefusalError({ reason: String(reason) })
    }
    const functions = {
      range,
      raise_exception: refuse,
      strftime_now: (format: string) => strftime(now, format),
    }
    const environment = new Environment()
    const values = { ...constants, ...functions, ...variables }
    for (const [name, value] of Object.entries(values)) environment.set(name, value)
    try {
      return String(new Interpreter(environment).run(this.#program).value)
    } catch (error) {
      if (error instanceof TemplateRefusalError) throw error
      throw new TemplateRenderError({ reason: reasonOf(error) })
    }
  }
}

const reasonOf = (error: unknown): string =>
  (error instanceof Error ? error.message : String(error)).replace(/\.$/, "")
