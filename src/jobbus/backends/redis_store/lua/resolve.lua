-- resolve: tell dependents what has ended; answers how many parents are left to tell of.
resolve(200)
finish()
return call('SCARD', P .. 'untold')
