'use strict';

const assert = require('node:assert');
const test = require('node:test');
const { outline } = require('../lib/outline');

test('headings with their levels', () => {
  assert.deepStrictEqual(outline('# A\ntext\n### B ###\n'), [
    { level: 1, title: 'A' },
    { level: 3, title: 'B' },
  ]);
});

test('code is no heading', () => {
  assert.deepStrictEqual(outline('```\n# A\n```\n'), []);
});
