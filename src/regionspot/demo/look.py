"""How the page looks: fonts, and what is shown when."""

from regionspot.core.text import needs_extra

with needs_extra("demo"):
    import gradio as gr

THEME = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["monospace"])

CSS = """
/* Answers appear with a picture, and empty pictures of attention or of found regions are hidden. */
.gradio-container:not(:has(#drawing canvas)) .answer { display: none; }
:is(#attention, #sheet):not(:has(img)) { display: none; }

/* A message says what is wrong: the answer before it stays in view. */
[data-testid="status-tracker"]:has(> .error) { display: none !important; }

/* The annotator would send boxes of the turned picture. */
#drawing button[title^="Rotate"] { display: none; }

#pictures .grid-wrap { min-height: 0; }
#pictures .grid-container {
  grid-template-columns: repeat(var(--grid-cols), minmax(0, 1fr));
  grid-auto-rows: auto;
}
#pictures .thumbnail-item { height: auto; }
#names { --font-mono: var(--font); }
#hits { overflow-x: auto; }
#hits :is(td, th) { padding: 4px 8px; overflow-wrap: normal; word-break: normal !important; }
"""
