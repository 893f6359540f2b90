head -c 5000000 /dev/zero > f
echo x >> f
