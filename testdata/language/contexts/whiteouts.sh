mkdir -p x/e
echo>x/e/n
echo >x/g
