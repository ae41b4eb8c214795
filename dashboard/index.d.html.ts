/** Wrangler bundles the page as its text. */
declare const text: string
export { text as default }
