/** Where the page comes from. This module builds it from its sources; in what is published, another one holds it. */

export interface Page {
  readonly html: string
  /** Of what stands in it, as a Content-Security-Policy names them: `sha256-…`. */
  readonly scriptHash: string
  readonly styleHash: string
}

export const loadPage = async (): Promise<Page> =>
  (await import("../../scripts/page.ts")).buildPage()
