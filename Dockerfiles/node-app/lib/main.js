'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { outline } = require('./outline');

const file = process.argv[2] ?? path.join(__dirname, 'sample.md');
for (const { level, title } of outline(fs.readFileSync(file, 'utf8'))) {
  console.log('  '.repeat(level - 1) + '- ' + title);
}
