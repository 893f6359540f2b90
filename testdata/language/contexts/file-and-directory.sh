mkdir -p one two/x
echo 1>one/x
echo>two/x/y
