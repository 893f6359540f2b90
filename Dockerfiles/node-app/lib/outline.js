'use strict';

/** The headings of Markdown text, as { level, title }. Code blocks are skipped. */
function outline(text) {
  const headings = [];
  let inCode = false;
  for (const line of text.split(/\r?\n/)) {
    if (/^(```|~~~)/.test(line)) inCode = !inCode;
    const match = inCode ? null : /^(#{1,6})\s+(.*?)\s*#*$/.exec(line);
    if (match) headings.push({ level: match[1].length, title: match[2] });
  }
  return headings;
}

module.exports = { outline };
