// The choice of dark or light, and the focus, which survives that a live part of the page is written anew.
window.fieldline = {
  theme(next) { document.cookie = `fieldline_theme=${next};path=/;max-age=31536000;samesite=strict`; },
  // a name for the editor, and CodeMirror's own colours, which are dark: in the dark theme they are mixed with white
  async editor(id) {
    const [CM, editor] = await this.parts(id);
    const mixed = ({ color, ...style }) => color ? { ...style, color: `color-mix(in srgb, ${color}, #fff var(--lighter))` } : style;
    const colours = CM.HighlightStyle.define(CM.defaultHighlightStyle.specs.map(mixed), { all: { color: "var(--ink)" } });
    editor.dispatch({ effects: CM.StateEffect.appendConfig.of(CM.Prec.highest(CM.syntaxHighlighting(colours))) });
    editor.contentDOM.setAttribute("aria-label", "SQL statement");
  },
  // tables, columns and functions after those that the editor knows itself
  async complete(id, words) {
    const [CM, editor] = await this.parts(id);
    const options = words.map(([label, type, detail]) => ({ label, type, detail }));
    const source = (context) => {
      const word = context.matchBefore(/[\w.]+/);
      return !word && !context.explicit ? null : { from: word ? word.from : context.pos, options, validFor: /^[\w.]*$/ };
    };
    const data = editor.state.constructor.languageData ?? CM.EditorState.languageData;
    editor.dispatch({ effects: CM.StateEffect.appendConfig.of(data.of(() => [{ autocomplete: source }])) });
  },
  async parts(id) {
    const CM = await import("nicegui-codemirror");
    await getElement(id).editorPromise;
    return [CM, getElement(id).editor];
  },
  // a file that somebody chose, into a text field
  async read(input, id) {
    const area = getElement(id).$refs.qRef.nativeEl;
    area.value = await input.files[0].text();
    area.dispatchEvent(new Event("input", { bubbles: true }));
  },
  async jump(id, at) {
    const editor = getElement(id).editor;
    editor.dispatch({ selection: { anchor: Math.min(at, editor.state.doc.length) }, scrollIntoView: true });
    editor.focus();
  },
};
(() => {
  let last = null;
  document.addEventListener("focusin", (e) => {
    last = e.target.closest(".live") && e.target.getAttribute("href") ? e.target.getAttribute("href") : null;
  });
  new MutationObserver(() => {
    if (last && document.activeElement === document.body)
      document.querySelector(`.live a[href="${CSS.escape(last)}"]`)?.focus({ preventScroll: true });
  }).observe(document, { childList: true, subtree: true });
})();
