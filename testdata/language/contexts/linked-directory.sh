mkdir -p real
echo 1>real/a
ln -s real link
