-- Natural terrain that follows from the seeds alone: one chunk of the map generator is one place, generated for each
-- episode and forgotten after it.

local terrain = {}

local CHUNK = 80 -- nodes; the middle chunk reaches from -32 to 47 in each direction
local REACH = 40 -- places lie up to so many chunks from the origin, where coordinates are still exact
local BLOCK = 16 -- nodes; what the engine sends, and counts distances in
local generated = {}

-- Only what can be seen is generated: from the middle block of a chunk no more than that chunk, with the usual range.
local range = tonumber(minetest.settings:get("viewing_range")) or 100
minetest.settings:set("max_block_generate_distance", tostring(math.ceil(range / BLOCK)))

minetest.register_on_generated(function(low, high)
	table.insert(generated, { low, high })
end)

-- A text that is equal for equal tables, whatever the order of their keys.
local function canonical(value)
	if type(value) ~= "table" then
		return tostring(value)
	end
	local parts = {}
	for key, entry in pairs(value) do
		table.insert(parts, tostring(key) .. "=" .. canonical(entry))
	end
	table.sort(parts)
	return "{" .. table.concat(parts, ",") .. "}"
end

-- The engine draws the leaves of a tree from a generator that nobody can seed, so every leaf is always there. What a
-- decoration draws depends on its place in the list, so that is made the same each time. Fireflies and butterflies move
-- by themselves, and are left out.
minetest.register_on_mods_loaded(function()
	local kept = {}
	for _, decoration in pairs(minetest.registered_decorations) do
		local name = tostring(decoration.name)
		if not name:find("^fireflies:") and not name:find("^butterflies:") then
			table.insert(kept, { canonical(decoration), decoration })
		end
	end
	table.sort(kept, function(a, b)
		return a[1] < b[1]
	end)
	minetest.clear_registered_decorations()
	for _, entry in ipairs(kept) do
		local decoration = table.copy(entry[2])
		if decoration.deco_type == "schematic" then
			local schematic = minetest.read_schematic(decoration.schematic, { write_yslice_prob = "none" })
			for _, node in ipairs(schematic.data) do
				node.prob = node.prob > 1 and 254 or 0
			end
			decoration.schematic = schematic
		end
		minetest.register_decoration(decoration)
	end
end)

local function meets(low, high, other_low, other_high)
	for _, axis in ipairs({ "x", "y", "z" }) do
		if low[axis] > other_high[axis] or high[axis] < other_low[axis] then
			return false
		end
	end
	return true
end

-- Deletes every chunk but the one from `low` to `high`, with the border that each writes into its neighbours, so that
-- it is made anew when it is visited again. What was kept keeps its border.
function terrain.forget(low, high)
	local remaining = {}
	for _, chunk in ipairs(generated) do
		local from, to = vector.subtract(chunk[1], BLOCK), vector.add(chunk[2], BLOCK)
		if meets(chunk[1], chunk[2], low, high) then
			table.insert(remaining, chunk)
		elseif meets(from, to, low, high) then
			minetest.delete_area(chunk[1], chunk[2])
		else
			minetest.delete_area(from, to)
		end
	end
	generated = remaining
end

-- Calls `ready` once everything between `low` and `high` is generated.
function terrain.generate(low, high, ready)
	minetest.emerge_area(low, high, function(_, action, left)
		if action == minetest.EMERGE_CANCELLED or action == minetest.EMERGE_ERRORED then
			error("the map around " .. minetest.pos_to_string(low) .. " cannot be generated")
		end
		if left == 0 then
			ready()
		end
	end)
end

local function definition(x, y, z)
	return minetest.registered_nodes[minetest.get_node({ x = x, y = y, z = z }).name] or {}
end

-- The height of the ground below `top`, or nil where it is no solid ground or lies under a liquid.
function terrain.ground(x, top, z)
	for y = top, top - 40, -1 do
		local node = definition(x, y, z)
		local groups = node.groups or {}
		if node.liquidtype and node.liquidtype ~= "none" then
			return nil
		end
		if node.walkable and not groups.leaves and not groups.tree then
			local solid = groups.soil or groups.sand or groups.stone or groups.snowy
			return solid and y or nil
		end
	end
end

local function free(x, y, z)
	return not definition(x, y, z).walkable and not definition(x, y + 1, z).walkable
end

-- A spot where one can stand, with little relief around; nil where the chunk has none.
local function find_spot(random, cx, cz, top)
	for _ = 1, 60 do
		local x, z = cx + random:next(-8, 7), cz + random:next(-8, 7)
		local y = terrain.ground(x, top, z)
		if y and y < 40 and free(x, y + 1, z) then
			local flat = true
			for _, d in ipairs({ { 3, 0 }, { -3, 0 }, { 0, 3 }, { 0, -3 }, { 6, 0 }, { -6, 0 }, { 0, 6 }, { 0, -6 } }) do
				local other = terrain.ground(x + d[1], top, z + d[2])
				flat = flat and other and math.abs(other - y) <= 2
			end
			if flat then
				return { x = x, y = y, z = z }
			end
		end
	end
end

-- Calls `found(ground)` with a spot on land that follows from `random`, once its surroundings are generated.
function terrain.find_place(random, found)
	local function try()
		local cx, cz, level
		repeat
			cx, cz = 8 + CHUNK * random:next(-REACH, REACH), 8 + CHUNK * random:next(-REACH, REACH)
			level = minetest.get_spawn_level(cx, cz)
		until level and level < 30
		local low, high = { x = cx - 40, y = -32, z = cz - 40 }, { x = cx + 39, y = 127, z = cz + 39 }
		terrain.generate(low, high, function()
			local spot = find_spot(random, cx, cz, level + 24)
			if spot then
				found(spot)
			else
				try()
			end
		end)
	end
	try()
end

local SPECIES = {
	{ "default:tree", "default:leaves" },
	{ "default:pine_tree", "default:pine_needles" },
	{ "default:aspen_tree", "default:aspen_leaves" },
	{ "default:jungletree", "default:jungleleaves" },
	{ "default:acacia_tree", "default:acacia_leaves" },
}

terrain.SPECIES = SPECIES

-- A tree of 4 or 5 logs on `ground`, low enough that all its logs can be reached from below.
-- `species` is one of `terrain.SPECIES`; nil leaves it to chance.
function terrain.plant(random, ground, species)
	species = species or SPECIES[random:next(1, #SPECIES)]
	local height = random:next(4, 5)
	local logs, leaves = {}, {}
	for y = height - 1, height + 1 do
		local radius = y > height and 1 or 2
		for x = -radius, radius do
			for z = -radius, radius do
				local corner = math.abs(x) == radius and math.abs(z) == radius
				local p = vector.add(ground, { x = x, y = y, z = z })
				if not (corner and random:next(0, 1) == 0) and minetest.get_node(p).name == "air" then
					table.insert(leaves, p)
				end
			end
		end
	end
	for y = 1, height do
		table.insert(logs, vector.add(ground, { x = 0, y = y, z = 0 }))
	end
	minetest.bulk_set_node(leaves, { name = species[2] })
	minetest.bulk_set_node(logs, { name = species[1] })
end

return terrain
