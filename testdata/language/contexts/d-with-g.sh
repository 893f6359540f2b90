mkdir d
echo 2>d/g
