mkdir -p d1/x d2/x d3
echo 1>d1/x/f
echo 2>d2/x/f
echo 3>d3/z
chmod 700 d2/x
