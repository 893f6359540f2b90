mkdir -p one two
ln -s real one/x
echo 2>two/x
