-- Prepared scenes on a platform in the sky, always at the same place: only what stands on it differs.

local scenes = {}

-- The middle of a chunk of the map generator, high above all terrain.
scenes.CENTER = { x = 8, y = 968, z = 8 }
local C = scenes.CENTER
local LOW, HIGH = vector.add(C, { x = -36, y = -4, z = -36 }), vector.add(C, { x = 36, y = 11, z = 36 })

local COLORS = {}
for _, color in ipairs({ "white", "grey", "black", "violet", "blue", "cyan", "dark_green", "green", "yellow", "brown", "orange", "red", "magenta", "pink" }) do
	table.insert(COLORS, "wool:" .. color)
end
scenes.COLORS = COLORS

-- Replaces everything around the center by air and what `build(set)` sets: `set(x, y, z, name)` with coordinates from
-- the center, of which y = 0 is the lowest node above the floor.
function scenes.build(build)
	local voxels = minetest.get_voxel_manip()
	local from, to = voxels:read_from_map(LOW, HIGH)
	local area = VoxelArea:new({ MinEdge = from, MaxEdge = to })
	local data = voxels:get_data()
	local air = minetest.get_content_id("air")
	for index = 1, #data do
		data[index] = air
	end
	build(function(x, y, z, name)
		data[area:index(C.x + x, C.y + y, C.z + z)] = minetest.get_content_id(name)
	end)
	voxels:set_data(data)
	voxels:write_to_map(true)
end

function scenes.pick(random, list)
	return list[random:next(1, #list)]
end

-- A round wall of twelve parts around the center, each of a colour and a height of its own.
function scenes.ring(random)
	local parts = {}
	for part = 0, 11 do
		parts[part] = { name = scenes.pick(random, COLORS), height = random:next(2, 5) }
	end
	scenes.build(function(set)
		for x = -12, 12 do
			for z = -12, 12 do
				set(x, -1, z, "default:stone_block")
				if math.floor(math.sqrt(x * x + z * z) + 0.5) == 6 then
					local part = parts[math.floor(math.deg(math.atan2(x, z)) % 360 / 30)]
					for y = 0, part.height - 1 do
						set(x, y, z, part.name)
					end
				end
			end
		end
	end)
end

-- A lane of 3 x 3 x `length` nodes from z = 0 on, open above. The wall of either side changes its colour every two nodes.
function scenes.lane(random, length)
	scenes.build(function(set)
		local left, right
		for z = -1, length do
			if z % 2 == 1 then
				left, right = scenes.pick(random, COLORS), scenes.pick(random, COLORS)
			end
			for x = -2, 2 do
				set(x, -1, z, "default:stone_block")
				if math.abs(x) == 2 or z == -1 or z == length then
					for y = 0, 2 do
						set(x, y, z, x < 0 and left or right)
					end
				end
			end
		end
	end)
end

-- A walled meadow of 21 x 21 nodes.
function scenes.yard(random)
	scenes.build(function(set)
		for x = -10, 10 do
			for z = -10, 10 do
				set(x, -2, z, "default:dirt")
				set(x, -1, z, "default:dirt_with_grass")
				if math.max(math.abs(x), math.abs(z)) == 10 then
					set(x, 0, z, "default:stonebrick")
					set(x, 1, z, "default:stonebrick")
				elseif random:next(1, 12) == 1 then
					set(x, 0, z, "default:grass_" .. random:next(1, 5))
				end
			end
		end
	end)
end

return scenes
